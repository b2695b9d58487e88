"""Image generators of diffusers: what is asked of one, and the one that stays loaded."""
