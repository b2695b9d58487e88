"""Vision-language models of transformers: what is asked of one, and the one that stays loaded."""
