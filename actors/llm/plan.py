"""What one step computes: the only thing that a sequencer says to a stage. Torch-free, small, and safe to send."""

from __future__ import annotations

from dataclasses import dataclass


class GivenUp(Exception):
    """A step was given up between two layers, as whoever wanted it wished. What it wrote will be written again."""


@dataclass(frozen=True, slots=True)
class Span:
    """The part of one sequence that a step computes: `tokens` at positions `start`, `start + 1`, …

    A block id means the same page of keys and values in every stage, so a stage knows nothing of sequences, of sharing
    or of policy: it writes the pages of the span's positions and reads those of all positions before them.
    """

    start: int
    """Position of the first token; every earlier position's keys and values are in `blocks` already."""
    tokens: tuple[int, ...]
    """Token ids; only the first stage reads them, the others get hidden states."""
    blocks: tuple[int, ...]
    """Block table: position p lies in block ``blocks[p // block_size]`` at offset ``p % block_size``."""
    logits: int = 0
    """How many of the last positions need logits: 0 inside a prompt, 1 to go on, more to verify a draft."""

    @property
    def stop(self) -> int:
        """One past the last position: the length of the context that the last token attends to."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Copy:
    """Before the step: copy a page (copy on write). `source` and `target` are block ids."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: prefill chunks and decoding sequences mixed, in one batch."""

    step: int
    """Counts up; a stage refuses to go back."""
    spans: tuple[Span, ...]
    copies: tuple[Copy, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(len(span.tokens) for span in self.spans)

    @property
    def logits(self) -> int:
        """Rows of logits that the last stage returns, in the order of the spans."""
        return sum(span.logits for span in self.spans)
