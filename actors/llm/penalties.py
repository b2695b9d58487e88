"""What a sequence's own tokens do to its next logits: repetition, presence and frequency penalties. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .request import Sampling

_FIRST_CAPACITY = 64


class Penalties:
    """The distinct tokens of one sequence, with how often each was generated. `add` costs O(1), no step costs O(V).

    `repetition` looks at prompt and output (transformers), `presence` and `frequency` at the output alone (OpenAI).
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.repetition = sampling.repetition_penalty
        self.presence = sampling.presence_penalty
        self.frequency = sampling.frequency_penalty
        seen = np.unique(np.asarray(prompt, np.int64)) if self.repetition != 1.0 else np.empty(0, np.int64)
        self._ids = np.concatenate([seen, np.empty(_FIRST_CAPACITY, np.int64)])
        self._counts = np.zeros(len(self._ids), np.float32)
        self._place = {int(token): place for place, token in enumerate(seen)}

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int]) -> Penalties | None:
        """The penalties that `sampling` asks for, None if it asks for none."""
        asks = sampling.repetition_penalty != 1.0 or sampling.presence_penalty or sampling.frequency_penalty
        return cls(sampling, prompt) if asks else None

    def add(self, token: int) -> None:
        """`token` was generated."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """The tokens whose logits change, (K,), each once; valid until the next `add`."""
        return self._ids[: len(self._place)]

    @property
    def subtracted(self) -> NDArray[np.float32]:
        """What presence and frequency take from the logit of each of `ids`, (K,)."""
        counts = self._counts[: len(self._place)]
        return self.presence * (counts > 0).astype(np.float32) + self.frequency * counts
