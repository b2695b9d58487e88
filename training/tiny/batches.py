"""Dialogues as training batches: sorted by length, so that hardly anything is padding, and padded on the right.

With causal attention a token never sees the padding behind it, so no mask is needed and no dialogue sees another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, islice

import torch
from dialogues import training_dialogues
from tokenizer import encode
from torch import Tensor
from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""The label of a token that the model does not have to write (cross entropy's own word for it)."""

Encoded = tuple[list[int], list[bool]]


def training_batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch_tokens: int, max_length: int, pool: int = 2048
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (input ids, labels), each (B, T) int64 with B * T at most `batch_tokens`; labels are one step ahead.

    `pool` dialogues are drawn, sorted by length, cut into batches and shuffled, and so on. Those longer than
    `max_length` tokens are left out, and to begin with all but the shortest: 40 tokens, 10 more with every pool.
    """
    source = training_dialogues(seed)
    rng = random.Random(seed)
    for longest in count(40, 10):
        encoded = [encode(tokenizer, dialogue) for dialogue in islice(source, pool)]
        short = sorted(
            (item for item in encoded if len(item[0]) <= min(longest, max_length)), key=lambda item: len(item[0])
        )
        batches = list(_cut(short, batch_tokens))
        rng.shuffle(batches)
        for batch in batches:
            yield _padded(batch, tokenizer.pad_token_id)


def _cut(encoded: list[Encoded], batch_tokens: int) -> Iterator[list[Encoded]]:
    batch: list[Encoded] = []
    for item in encoded:  # ascending in length, so this one is the batch's longest
        if batch and (len(batch) + 1) * len(item[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _padded(batch: list[Encoded], pad: int) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in batch) - 1
    inputs = torch.full((len(batch), length), pad)
    labels = torch.full((len(batch), length), IGNORED)
    for row, (ids, written) in enumerate(batch):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        ahead = [token if wanted else IGNORED for token, wanted in zip(ids[1:], written[1:], strict=True)]
        labels[row, : len(ahead)] = torch.tensor(ahead)
    return inputs, labels
