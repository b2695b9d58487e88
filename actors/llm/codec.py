"""A model's tokenizer, chat template and end tokens, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from ..model_pins import own_code
from .request import RequestRefused


class NoTokenizer(Exception):
    """The folder has no tokenizer that can be used here; the message says what is missing."""


class Codec:
    """Text to tokens; `backend` is for the way back (`Detokenizer`, `ConstraintCompiler`)."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int]) -> None:
        """`tokenizer`: a fast tokenizer of transformers."""
        self._tokenizer = tokenizer
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        self.eos_ids = eos_ids
        """Tokens that end an answer: the generation configuration's and the tokenizer's own."""

    @classmethod
    def load(cls, folder: Path, model: str | None = None) -> Codec:
        """Reads only local files; runs the model's own code only where that is allowed to `model`, the name by which it
        was asked for (the folder, if none is given). Raises NoTokenizer, ModelRefused."""
        from transformers import AutoTokenizer

        try:
            with own_code(model or str(folder), folder) as trusted:
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        except (OSError, ValueError, KeyError) as error:
            raise NoTokenizer(f"{folder} has no tokenizer that transformers can read: {error}") from error
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise NoTokenizer(f"{folder} has only a slow tokenizer; save it once as tokenizer.json")
        own = frozenset() if tokenizer.eos_token_id is None else frozenset({int(tokenizer.eos_token_id)})
        return cls(tokenizer, own | _configured_eos(folder))

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a prompt, with what the tokenizer puts before it (BOS)."""
        return tuple(self._tokenizer(text)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """How these tokens read, special ones included: for lists of log-probabilities, not for streams."""
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        """The tokens of a conversation up to where the assistant's answer begins; `options` go to the template.

        Raises RequestRefused if there is no template, or if it refuses the messages.
        """
        if not self.has_chat_template:
            raise RequestRefused(
                "this model has no chat template, so it doesn't know what a message is; give a prompt instead"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, **{"add_generation_prompt": True, **options}
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestRefused(f"the model's chat template refuses these messages: {error}") from error
        # the template has put every special token where it wants it
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _configured_eos(folder: Path) -> frozenset[int]:
    for path in (folder / "generation_config.json", folder / "config.json"):
        configured = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        if configured is not None:
            return frozenset([configured] if isinstance(configured, int) else configured)
    return frozenset()
