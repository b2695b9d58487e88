"""Dialogues as training batches: several of all kinds packed into a row, none of which sees another.

Positions count on within a row: rotary embeddings know distances alone, so a dialogue is the same wherever it begins.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import torch
from dialogues import training_dialogues
from tokenizer import encode
from torch import Tensor
from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""The label of a token that the model does not have to write (cross entropy's own word for it)."""
UNSEEN = -10_000.0
"""Added to the attention score of a token that must not be seen."""
WIDTHS = (128, 256)
"""Tokens of a row: few shapes, so that the model is compiled few times. Longer dialogues are left out."""

Encoded = tuple[list[int], list[bool]]
"""Token ids, and which of them the model has to write."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of dialogues, one behind the other."""

    inputs: Tensor
    """(B, T) int64."""
    labels: Tensor
    """(B, T) int64, one step ahead; IGNORED where nothing is asked."""
    mask: Tensor
    """(B, 1, T, T) bfloat16: 0 where the third axis's token sees the fourth's, UNSEEN elsewhere."""


def training_batches(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    batch_tokens: int,
    rank: int = 0,
    processes: int = 1,
    pool: int = 2048,
) -> Iterator[Batch]:
    """Endless batches of `batch_tokens` tokens, each of rows of one of the WIDTHS; and of each the rows that are the
    share of the process `rank` of `processes`, all of which get the same width at the same time.

    `pool` dialogues are drawn, packed, shuffled and cut into batches, and so on. To begin with all but the shortest are
    left out: 40 tokens, 10 more with every pool. They teach the most per token. ValueError if a row of the greatest
    width doesn't fit into a batch.
    """
    if batch_tokens < WIDTHS[-1]:
        raise ValueError(f"A batch of {batch_tokens} tokens has no room for a row of {WIDTHS[-1]}: ask for more tokens")
    source = training_dialogues(seed)
    rng = random.Random(seed)
    waiting: dict[int, list[list[Encoded]]] = {width: [] for width in WIDTHS}
    for longest in count(40, 10):
        encoded = [encode(tokenizer, dialogue) for dialogue in islice(source, pool)]
        ready = []
        for shortest, width in zip((0, *WIDTHS), WIDTHS, strict=False):
            rows = waiting[width]
            rows += packed([item for item in encoded if shortest < len(item[0]) <= min(longest, width)], width)
            rng.shuffle(rows)
            size = batch_tokens // width
            while len(rows) >= size:
                ready.append((width, [rows.pop() for _ in range(size)]))
        rng.shuffle(ready)
        for width, rows in ready:
            yield _batch(rows[rank::processes], width, tokenizer.pad_token_id)


def packed(items: list[Encoded], width: int) -> list[list[Encoded]]:
    """All items in rows of at most `width` tokens: the longest first, each into the fullest row with room for it."""
    rows_by_room: list[list[list[Encoded]]] = [[] for _ in range(width + 1)]
    for item in sorted(items, key=lambda item: -len(item[0])):
        length = len(item[0])
        room = next((room for room in range(length, width) if rows_by_room[room]), width)
        row = rows_by_room[room].pop() if rows_by_room[room] else []
        rows_by_room[room - length].append([*row, item])
    return [row for rows in rows_by_room for row in rows]


def _batch(rows: list[list[Encoded]], width: int, pad: int) -> Batch:
    inputs = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    owner = torch.full((len(rows), width), -1)  # which dialogue of its row a token belongs to
    for row, items in enumerate(rows):
        ids, ahead, whose = [], [], []
        for number, (tokens, written) in enumerate(items):
            ids += tokens
            ahead += [token if wanted else IGNORED for token, wanted in zip(tokens[1:], written[1:], strict=True)]
            ahead.append(IGNORED)
            whose += [number] * len(tokens)
        inputs[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(ahead)
        owner[row, : len(ids)] = torch.tensor(whose)
    seen = (owner[:, :, None] == owner[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~seen, UNSEEN)
    return Batch(inputs, labels, mask[:, None])
