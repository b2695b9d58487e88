import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.llm.penalties import Penalties
from idlegrid.actors.llm.plan import Copy, Plan, Span
from idlegrid.actors.llm.request import Sampling, TokenLogprob
from idlegrid.actors.llm.sampling import Sampled, SamplingRow, sample
from idlegrid.actors.shards.errors import FrameRefused
from idlegrid.actors.shards.notes import to_note
from idlegrid.actors.shards.step_wire import (
    Spent,
    StepFailed,
    failed_to_note,
    rows_from,
    sampled_from_note,
    sampled_to_note,
    step_from_note,
    step_to_note,
    to_rows,
)

counts = st.integers(0, 2**40)
spans = st.builds(
    Span, counts, st.lists(counts, max_size=5).map(tuple), st.lists(counts, max_size=5).map(tuple), st.integers(0, 5)
)
plans = st.builds(
    Plan,
    counts,
    st.lists(spans, max_size=4).map(tuple),
    st.lists(st.builds(Copy, counts, counts), max_size=3).map(tuple),
)


@given(plans, st.binary(max_size=20))
def test_the_first_stage_gets_the_plan_as_it_is(plan, rows):
    said = step_from_note(step_to_note(plan, rows, ids=True), None)
    assert (said.plan, said.rows) == (plan, rows)


@given(plans)
def test_the_others_get_it_without_token_ids(plan):
    said = step_from_note(step_to_note(plan, b"", ids=False), plan.tokens).plan
    hidden = [Span(span.start, (0,) * len(span.tokens), span.blocks, span.logits) for span in plan.spans]
    assert said == Plan(plan.step, tuple(hidden), plan.copies)


def test_a_number_of_tokens_that_did_not_come_is_refused_before_it_takes_memory():
    note = to_note({"step": 1, "spans": [(0, 2**40, (0,), 1)], "copies": [], "rows": b""})
    with pytest.raises(FrameRefused, match="3 rows of hidden states"):
        step_from_note(note, 3)


plain = st.recursive(
    st.none() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=5) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
known = st.sampled_from(
    ["step", "spans", "copies", "rows", "failed", "ids", "logprobs", "lost", "at", "t", "cut", "seed"]
)


@given(
    st.binary(max_size=60)
    | (plain | st.dictionaries(known, plain) | st.lists(st.dictionaries(known, plain))).map(to_note)
)
def test_whatever_comes_is_read_or_refused(note):
    for read in (lambda: step_from_note(note, None), lambda: step_from_note(note, 2), lambda: rows_from(note)):
        try:
            read()
        except FrameRefused:
            continue
    try:
        sampled_from_note(note)
    except FrameRefused:
        return


def rows():
    """Of every kind."""
    sampling = Sampling(temperature=0.9, top_k=20, top_p=0.8, min_p=0.01, seed=-5, logprobs=2)
    penalised = Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, seed=2**70)
    penalties = Penalties.of(penalised, (3, 5))
    penalties.add(7)
    some = np.array([0b10110], np.int32)
    return [
        SamplingRow(Sampling(temperature=0), 4),
        SamplingRow(sampling, 7, forbidden=(1, 2)),
        SamplingRow(penalised, 9, penalties=penalties),
        SamplingRow(Sampling(logit_bias={3: -4.0, 6: 2.5}, seed=3), 11),
        SamplingRow(Sampling(temperature=1.2, logprobs=0), 12, allowed=some),
    ]


@given(st.integers(0, 2**20))
def test_tokens_chosen_elsewhere_are_those_chosen_here(seed):
    import torch

    logits = torch.randn(len(rows()), 32, generator=torch.Generator().manual_seed(seed))
    here, there = sample(logits, rows()), sample(logits, rows_from(to_rows(rows())))
    assert sampled_from_note(sampled_to_note(there)) == (here, Spent())


def test_what_became_of_a_step_arrives():
    sampled = Sampled((3, 5), (None, TokenLogprob(5, -0.5, ((5, -0.5), (1, -2.0)))), (0,))
    spent = Spent(0.25, 0.5).and_here(0.125, 0.25)
    assert spent == Spent(0.25, 0.75)
    assert sampled_from_note(sampled_to_note(sampled, spent)) == (sampled, spent)
    assert sampled_from_note(failed_to_note("no"))[0] == step_from_note(failed_to_note("no"), 0) == StepFailed("no")
