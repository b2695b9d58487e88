"""Asks travel as annotations and come back the same."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.jobs import Ask, Job, JobStatus
from idlegrid.grid.regions import REGIONS, UnknownRegionError

asks = st.builds(
    Ask,
    type=st.text(min_size=1),
    model=st.none() | st.text(),
    region=st.none() | st.sampled_from(sorted(REGIONS)),
    allow_cross_region=st.booleans(),
    gpu_memory_gb=st.floats(0, 200),
    excluded=st.frozensets(st.text()),
    deaths_allowed=st.none() | st.integers(0, 9),
)


@given(asks)
def test_an_ask_survives_the_way_to_the_scheduler(ask):
    assert Ask.from_annotation(msgpack.unpackb(msgpack.packb(ask.to_annotation()))) == ask


def test_defaults_do_not_travel():
    assert Ask(type="embedding").to_annotation() == {"type": "embedding"}
    assert Ask(type="").to_annotation() == {"type": ""}


@pytest.mark.parametrize("annotation", [{}, {"model": "m"}, {"type": "llm", "colour": "red"}])
def test_an_annotation_that_is_no_ask_is_refused(annotation):
    with pytest.raises(TypeError):
        Ask.from_annotation(annotation)


def test_an_unknown_region_is_refused():
    with pytest.raises(UnknownRegionError, match="'atlantis'"):
        Ask(type="llm", region="atlantis")


def test_a_job_asks_for_its_model_in_its_region():
    job = Job(id="j", type="llm", params={"model": "m"}, region="oceania", allow_cross_region=False)
    assert job.ask(gpu_memory_gb=3.0, excluded=frozenset({"d"})) == Ask(
        type="llm",
        model="m",
        region="oceania",
        allow_cross_region=False,
        gpu_memory_gb=3.0,
        excluded=frozenset({"d"}),
    )
    assert Job(id="j", type="llm").ask() == Ask(type="llm")


def test_four_states_are_final():
    assert {status.value for status in JobStatus if status.final} == {"completed", "failed", "cancelled", "timeout"}
