"""Sizes and rules of a sequencer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .prefix import TOKEN_LIMIT
from .request import Request, RequestRefused

_COUNTS = (
    "num_blocks",
    "block_size",
    "max_batched_tokens",
    "max_sequences",
    "max_context",
    "chunk",
    "background_in_step",
    "background_tokens_in_step",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencerConfig:
    """Sizes and rules. Raises ValueError for those that can't work."""

    num_blocks: int
    block_size: int = 16
    """Tokens in a block."""
    max_batched_tokens: int = 512
    """Tokens that a step computes at most."""
    max_sequences: int = 64
    """Sequences that hold blocks at most; no more than `max_batched_tokens`, so that each can decode in every step."""
    max_context: int | None = None
    """Tokens of a sequence at most, prompt included. None, or more than the pool holds: what the pool holds."""
    chunk: int | None = None
    """Tokens of one sequence in one step at most: bounds how much a long prompt slows the decoding of others."""
    watermark: float = 0.01
    """Share of the blocks that admission leaves free, so that those who run can grow."""
    aging: float = 10.0
    """Seconds of waiting that one level of priority is worth. 0: priorities are ignored."""
    background_in_step: int = 4
    """Sequences in the background in one step, at most, while others come: those wait for a step that they share."""
    background_tokens_in_step: int = 32
    """Tokens of all of these, at most: the prompts of a few would make a step many times as long as decoding."""
    quiet: float = 30.0
    """Seconds without any request that is not in the background, after which these have whole steps to themselves."""
    prefix_cache: bool = True
    revision: str = ""
    """The model and its revision: part of the names of blocks."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.max_sequences > self.max_batched_tokens:
            raise ValueError(
                f"max_sequences={self.max_sequences} can't all decode in a step of "
                f"max_batched_tokens={self.max_batched_tokens}; lower the one or raise the other"
            )
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark must be at least 0 and less than 1, not {self.watermark}")
        for name in ("aging", "quiet"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of seconds, 0 or more, not {getattr(self, name)}")

    @property
    def context(self) -> int:
        """Tokens of a sequence at most, prompt included; less than `max_context` if the pool is smaller."""
        held = self.num_blocks * self.block_size
        return held if self.max_context is None else min(held, self.max_context)

    @property
    def watermark_blocks(self) -> int:
        """Blocks that admission leaves free."""
        return int(self.watermark * self.num_blocks)

    def check(self, request: Request) -> None:
        """Raise RequestRefused if it can't be served by a sequencer of these sizes."""
        prompt, context = request.prompt, self.context
        if not prompt:
            raise RequestRefused(f"request {request.id!r} has an empty prompt; it needs at least one token")
        if len(prompt) >= context:
            raise RequestRefused(
                f"the prompt has {len(prompt)} tokens; at most {context - 1}, and one to generate, fit into the "
                f"context of {context} tokens (the pool holds {self.num_blocks * self.block_size})"
            )
        if request.sampling.max_tokens < 1:
            raise RequestRefused(f"max_tokens must be at least 1, not {request.sampling.max_tokens}")
        for extreme in (min, max):
            if not 0 <= (token := extreme((*prompt, *request.known))) < TOKEN_LIMIT:
                raise RequestRefused(f"token ids must be between 0 and {TOKEN_LIMIT - 1}, not {token}")
