import itertools
import random

import pytest
import torch
from batches import IGNORED, UNSEEN, WIDTHS, packed, training_batches
from tokenizer import train_tokenizer

pytestmark = pytest.mark.slow

BATCH_TOKENS = 1024


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(512, seed=3, dialogues=500)


@pytest.fixture(scope="module")
def batches(tokenizer):
    """Enough of them that there are rows of every width."""
    drawn = list(itertools.islice(training_batches(tokenizer, 5, BATCH_TOKENS, pool=256), 150))
    assert {batch.inputs.shape[1] for batch in drawn} == set(WIDTHS)
    return drawn


def test_packing_keeps_every_item_within_the_width():
    rng = random.Random(1)
    items = [([number] * rng.randint(1, 128), [True]) for number in range(500)]
    rows = packed(items, 128)
    assert all(sum(len(ids) for ids, _ in row) <= 128 for row in rows)
    assert sorted(ids[0] for row in rows for ids, _ in row) == list(range(500))
    assert sum(len(ids) for ids, _ in items) > 0.9 * 128 * len(rows)


def test_a_row_says_what_its_dialogues_say(tokenizer, batches):
    for batch in batches[::10]:
        assert batch.inputs.shape == batch.labels.shape
        assert batch.inputs.numel() == BATCH_TOKENS
        wanted = batch.labels != IGNORED
        assert wanted.any()
        assert torch.equal(batch.labels[:, :-1][wanted[:, :-1]], batch.inputs[:, 1:][wanted[:, :-1]])
        for ids, labels in zip(batch.inputs, batch.labels, strict=True):
            said = tokenizer.decode(labels[labels != IGNORED])
            answers = [turn.split("<|end|>")[0] for turn in tokenizer.decode(ids).split("<|assistant|>")[1:]]
            assert said == "".join(f"{answer}<|end|>" for answer in answers)


def test_no_dialogue_sees_another_or_what_comes_after(tokenizer, batches):
    ends = {tokenizer.convert_tokens_to_ids(role) for role in ("<|user|>", "<|system|>")}
    for batch in batches[::10]:
        assert set(batch.mask.unique().tolist()) == {0.0, float(torch.tensor(UNSEEN, dtype=torch.bfloat16))}
        for ids, seen in zip(batch.inputs.tolist(), (batch.mask[:, 0] == 0).tolist(), strict=True):
            for place, row in enumerate(seen):
                first = row.index(True)
                assert row == [first <= other <= place for other in range(len(row))]  # a run that ends in itself
                assert ids[first] in ends | {tokenizer.pad_token_id}  # and begins where a dialogue does


def test_processes_share_a_batch_out(tokenizer):
    whole = training_batches(tokenizer, 5, BATCH_TOKENS, pool=256)
    shares = [training_batches(tokenizer, 5, BATCH_TOKENS, rank, 2, pool=256) for rank in range(2)]
    for _ in range(20):
        expected, first, second = next(whole), next(shares[0]), next(shares[1])
        assert torch.equal(expected.inputs[0::2], first.inputs)
        assert torch.equal(expected.inputs[1::2], second.inputs)
        assert torch.equal(expected.labels[1::2], second.labels)


def test_a_batch_without_room_for_a_row_is_refused(tokenizer):
    with pytest.raises(ValueError, match="128 tokens has no room for a row of 256"):
        next(training_batches(tokenizer, 5, 128))
