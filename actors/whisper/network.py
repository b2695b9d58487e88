"""transformers' own Whisper, helped in two places: times in silence, and sound that it would encode twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import transformers

_SOME_FRAMES = 20


class Network(transformers.WhisperForConditionalGeneration):  # type: ignore[misc]
    """It also finds the times of what it hears in the silence that fills a window up."""

    def _extract_token_timestamps(self, *args: Any, num_frames: Any = None, **options: Any) -> Any:
        """`num_frames` is what is left of the recording: nothing behind its end, where the original divides by it."""
        if isinstance(num_frames, torch.Tensor):
            num_frames = num_frames.clamp(min=_SOME_FRAMES).cpu().numpy()
        return super()._extract_token_timestamps(*args, num_frames=num_frames, **options)


@contextmanager
def encoding_once(network: Network) -> Iterator[None]:
    """While this lasts, the same features twice in a row are encoded once.

    `detect_language` and `generate` each encode what they are given, and the encoder is most of the work of a short
    recording. `generate` can't be given what was encoded: it needs the features to go on behind the first sentences.
    """
    encoder = network.get_encoder()
    encode = encoder.forward
    last: tuple[torch.Tensor, Any] | None = None

    @wraps(encode)  # `generate` looks at its parameters
    def forward(input_features: torch.Tensor, *args: Any, **options: Any) -> Any:
        nonlocal last
        if options.get("output_attentions") or options.get("output_hidden_states"):
            return encode(input_features, *args, **options)
        if last is None or not _equal(last[0], input_features):
            last = input_features, encode(input_features, *args, **options)
        return last[1]

    encoder.forward = forward
    try:
        yield
    finally:
        del encoder.forward


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
