import math
import time
from collections import Counter

import numpy as np
import pytest
import torch

from idlegrid.actors.llm import sampling as module
from idlegrid.actors.llm.penalties import Penalties
from idlegrid.actors.llm.request import Sampling
from idlegrid.actors.llm.sampling import SamplingRow, sample

VOCAB = 1000


def logits(rows: int, vocab: int = VOCAB, *, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def token(row: torch.Tensor, position: int = 0, **options) -> int:
    return sample(row[None], [SamplingRow(Sampling(**options), position)]).ids[0]


def kept_by_definition(row: torch.Tensor, s: Sampling) -> dict[int, float]:
    """Token → probability, straight from the definitions of min-p, top-k and top-p."""
    x = (row.double() / s.temperature).numpy()
    order = np.argsort(-x)
    if s.min_p:
        order = [i for i in order if x[i] >= x.max() + math.log(s.min_p)]
    if s.top_k:
        order = order[: s.top_k]
    p = np.exp(x[order] - x.max())
    p /= p.sum()
    if s.top_p < 1:
        size = int(np.searchsorted(p.cumsum(), s.top_p)) + 1
        order, p = order[:size], p[:size] / p[:size].sum()
    return dict(zip([int(i) for i in order], p.tolist(), strict=True))


TRUNCATIONS = [
    {"top_k": 1, "top_p": 1.0},
    {"top_k": 5, "top_p": 1.0},
    {"top_p": 0.5},
    {"top_p": 0.9, "top_k": 20},
    {"top_p": 1.0, "min_p": 0.05},
    {"top_p": 0.8, "min_p": 0.02, "top_k": 30},
    {"top_p": 0.95, "temperature": 2.0},
    {"top_p": 1.0, "temperature": 0.5},
]


@pytest.mark.parametrize("options", TRUNCATIONS, ids=str)
def test_the_distribution_is_that_of_the_definitions(options):
    row = logits(1, 200, scale=2.0, seed=3)[0]
    expected = kept_by_definition(row, Sampling(**{"temperature": 1.0, **options}))
    s = Sampling(**{"temperature": 1.0, **options})
    draws = 4000
    drawn = Counter(sample(row.expand(draws, -1), [SamplingRow(s, position) for position in range(draws)]).ids)
    assert set(drawn) <= set(expected), "a token that is cut off was drawn"
    for candidate, probability in expected.items():
        deviation = math.sqrt(draws * probability * (1 - probability)) + 1e-9
        assert abs(drawn[candidate] - draws * probability) < 5 * deviation + 1, (candidate, probability)


@pytest.mark.parametrize(
    "options",
    [{"top_p": 1.0}, {"top_p": 0.9}, {"top_k": 300, "top_p": 0.99}, {"min_p": 1e-3}, {"min_p": 0.3, "top_p": 1.0}],
    ids=str,
)
def test_a_distribution_too_flat_for_the_first_candidates_is_drawn_just_as_rightly(options, monkeypatch):
    """Narrow widths: nearly every draw must look beyond the first candidates, and again."""
    row = logits(1, 600, scale=0.5, seed=4)[0]
    s = Sampling(temperature=1.0, **options)
    expected = kept_by_definition(row, s)
    monkeypatch.setattr(module, "WIDTHS", (16, 64))
    draws = 6000
    drawn = Counter(sample(row.expand(draws, -1), [SamplingRow(s, position) for position in range(draws)]).ids)
    assert set(drawn) <= set(expected)
    # in twenty groups of falling probability, so that each has a count worth testing
    order = sorted(expected, key=lambda i: -expected[i])
    for group in np.array_split(order, 20):
        probability = sum(expected[i] for i in group)
        deviation = math.sqrt(draws * probability * (1 - probability))
        assert abs(sum(drawn[i] for i in group) - draws * probability) < 5 * deviation


def test_looking_further_takes_fresh_noise(monkeypatch):
    """The noise that decided for "something else" must not decide again: what comes next would be drawn too rarely."""
    row = logits(1, 200, scale=1.5, seed=5)[0]
    s = Sampling(temperature=1.0, top_p=1.0)
    monkeypatch.setattr(module, "WIDTHS", (5, 25))
    draws = 8000
    drawn = Counter(sample(row.expand(draws, -1), [SamplingRow(s, position) for position in range(draws)]).ids)
    probabilities = row.softmax(-1)
    for group in row.argsort(descending=True).tensor_split([4, 24]):
        probability = float(probabilities[group].sum())
        assert 0.1 < probability < 0.7
        deviation = math.sqrt(draws * probability * (1 - probability))
        assert abs(sum(drawn[i] for i in group.tolist()) - draws * probability) < 4 * deviation


def mixed_rows(count: int) -> list[SamplingRow]:
    kinds = [Sampling(temperature=0), *(Sampling(**{"temperature": 1.0, **options}) for options in TRUNCATIONS)]
    kinds += [Sampling(repetition_penalty=1.3), Sampling(logit_bias={3: 5.0}), Sampling(temperature=0, logprobs=3)]
    rows = []
    for i in range(count):
        s = kinds[i % len(kinds)]
        rows.append(SamplingRow(s, position=i * 7, penalties=Penalties.of(s, range(50))))
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_gets_the_same_token_alone_as_in_any_batch(dtype):
    x, rows = logits(48, 5000).to(dtype), mixed_rows(48)
    together = sample(x, rows)
    assert together.ids == tuple(sample(x[i : i + 1], [rows[i]]).ids[0] for i in range(48))
    backwards = sample(x.flip(0), rows[::-1])
    assert backwards.ids == together.ids[::-1]
    assert backwards.logprobs == together.logprobs[::-1]


def test_the_seed_and_the_position_decide():
    row = logits(1, scale=1.0)[0]
    options = {"temperature": 1.0, "top_p": 1.0}
    assert token(row, 5, seed=1, **options) == token(row, 5, seed=1, **options)
    by_position = {token(row, position, seed=1, **options) for position in range(30)}
    by_seed = {token(row, 5, seed=seed, **options) for seed in (*range(28), -1, 2**64 + 11)}
    assert len(by_position) > 5
    assert len(by_seed) > 5


def test_equals_of_the_last_kept_token_stay_in_whatever_their_order():
    row = torch.full((5000,), -10.0)
    row[[7, 4000, 2500]] = 1.0
    s = Sampling(temperature=1.0, top_k=2, top_p=1.0)
    drawn = Counter(sample(row.expand(600, -1), [SamplingRow(s, p) for p in range(600)]).ids)
    assert set(drawn) == {7, 2500, 4000}
    flat = torch.zeros(5000)
    assert len({token(flat, p, temperature=1.0, top_k=3, top_p=1.0) for p in range(50)}) > 40


def test_greedy_takes_the_first_of_equals_like_torch():
    x = logits(8).round()
    assert sample(x, [SamplingRow(Sampling(temperature=0), 0)] * 8).ids == tuple(x.argmax(-1).tolist())


def test_penalties_are_those_of_transformers_and_openai():
    row = torch.tensor([2.0, 1.9, -1.0, 1.5])
    s = Sampling(temperature=0, repetition_penalty=2.0)
    assert sample(row[None], [SamplingRow(s, 0, Penalties.of(s, [0]))]).ids == (1,)
    s = Sampling(temperature=0, frequency_penalty=0.1, presence_penalty=0.15)
    penalties = Penalties.of(s, [0, 1])
    assert sample(row[None], [SamplingRow(s, 0, penalties)]).ids == (0,)
    penalties.add(0)  # 2.0 - 0.25 < 1.9
    assert sample(row[None], [SamplingRow(s, 0, penalties)]).ids == (1,)
    for generated in (0, 0, 1, 1, 1):  # 2.0 - 0.45 > 1.5 > 1.9 - 0.45
        penalties.add(generated)
    assert sample(row[None], [SamplingRow(s, 0, penalties)]).ids == (0,)
    penalties.add(0)
    assert sample(row[None], [SamplingRow(s, 0, penalties)]).ids == (3,)


def test_bias_can_force_and_forbid():
    row = logits(1)[0]
    best = int(row.argmax())
    assert token(row, temperature=0, logit_bias={17: 100.0}) == 17
    assert token(row, temperature=0, logit_bias={best: -100.0}) == int(
        row.index_fill(0, torch.tensor(best), -99).argmax()
    )


def test_forbidden_tokens_and_masks_hold_for_greedy_and_for_drawn_rows():
    row = logits(1, 100)[0]
    best = int(row.argmax())
    allowed = np.zeros(4, np.int32)
    allowed[1] = 0b1010  # tokens 33 and 35
    for s in (Sampling(temperature=0), Sampling(temperature=5.0, top_p=1.0)):
        assert sample(row[None], [SamplingRow(s, 0, forbidden=(best,))]).ids[0] != best
        assert sample(row[None], [SamplingRow(s, 0, allowed=allowed)]).ids[0] in (33, 35)


def test_a_row_without_a_choice_is_told_and_spoils_no_other():
    x = logits(5)
    x[1] = math.nan
    x[2] = -math.inf
    x[4, 3] = math.nan
    rows = [SamplingRow(Sampling(temperature=0 if i % 2 else 1.0), i) for i in range(5)]
    assert sample(x, rows).failed == (1, 2, 4)
    assert sample(x, rows).ids[0] == sample(x[:1], rows[:1]).ids[0]
    nothing = SamplingRow(Sampling(), 0, allowed=np.zeros((VOCAB + 31) // 32, np.int32))
    assert sample(x[:1], [nothing]).failed == (0,)


def test_logprobs_are_of_the_untouched_logits():
    x = logits(2)
    s = Sampling(temperature=0, logit_bias={5: 100.0}, logprobs=3)
    chosen, none = sample(x, [SamplingRow(s, 0), SamplingRow(Sampling(logprobs=None), 0)]).logprobs
    truth = x[0].log_softmax(-1)
    assert none is None
    assert chosen.token == 5
    assert chosen.logprob == pytest.approx(truth[5].item(), abs=1e-5)
    values, tokens = truth.topk(3)
    assert [t for t, _ in chosen.top] == tokens.tolist()
    assert [v for _, v in chosen.top] == pytest.approx(values.tolist(), abs=1e-5)
    assert sample(x[:1], [SamplingRow(Sampling(logprobs=0), 0)]).logprobs[0].top == ()


def test_the_logits_stay_as_they_were():
    x = logits(12)
    before = x.clone()
    sample(x, mixed_rows(12))
    assert torch.equal(x, before)


@pytest.mark.parametrize("width", [16, 64, 500])
def test_a_gpu_s_candidates_are_the_cpu_s(width):
    """The branch for other devices, run here: nothing in it needs a GPU."""
    x = logits(6, 500).round(decimals=1)  # with equals at the border
    x -= x.max(1, keepdim=True).values
    free = [Sampling(top_k=0, min_p=0.0)] * 6
    cpu, device = module._likeliest(x, free, width), module._likeliest_on_device(x, width)
    assert np.array_equal(cpu.logits, device.logits)
    assert np.array_equal(cpu.border, device.border)
    assert device.outside == pytest.approx(cpu.outside, rel=1e-5, abs=1e-9)
    some = cpu.logits > -np.inf
    for i in range(6):
        assert set(cpu.ids[i][some[i]]) == set(device.ids[i][some[i]])


def test_a_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="2 rows of logits for 1"):
        sample(logits(2), [SamplingRow(Sampling(), 0)])


def test_a_greedy_batch_costs_little_more_than_reading_it():
    """16 rows of 32k in far less than a millisecond each: no Python work per token of the vocabulary."""
    x, rows = logits(16, 32000), [SamplingRow(Sampling(temperature=0), 0)] * 16
    best = math.inf
    for _ in range(10):
        started = time.perf_counter()
        sample(x, rows)
        best = min(best, time.perf_counter() - started)
    assert best / 16 < 100e-6
