"""What every bulk job can be told."""

from __future__ import annotations

import pytest
from bulk_helpers import HashSpec

from idlegrid.pipelines.bulk import run
from idlegrid.pipelines.bulk.chat import ChatSpec
from idlegrid.pipelines.bulk.generate import GenerateSpec


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that would have run, each with what `run` got."""
    seen = []
    monkeypatch.setattr(run.BulkJob, "run", lambda job, *args, **options: seen.append((job, args, options)))
    return seen


def test_what_is_not_said_is_the_kind_s_own(jobs):
    run.run_job("client", HashSpec(), "in", "out", "text", {"unit_seconds": None}, unit_seconds=60.0, smallest_rows=8)
    run.run_job("client", HashSpec(), "in", "out", "text", {"unit_seconds": 5.0, "dry_run": True, "patience": None})
    (first, (_, listener), first_options), (second, _, second_options) = jobs
    assert (first.unit_seconds, first.smallest_rows, first.error_column) == (60.0, 8, "error")
    assert (second.unit_seconds, second.smallest_rows, second.patience.scheduler) == (5.0, 1, 60.0)
    assert (listener, first_options, second_options) == (None, {"dry_run": False}, {"dry_run": True})


def test_an_option_that_there_is_not_is_refused_with_the_nearest_one():
    with pytest.raises(TypeError, match=r"no option 'unit_row'.*unit_rows"):
        run.run_job("client", HashSpec(), "in", "out", "text", {"unit_row": 3})


def test_the_options_of_a_spec_are_what_results_depend_on_as_json():
    spec = ChatSpec(model="m", stop=("a", "b"), prefix="llm_")
    assert spec.options["stop"] == ["a", "b"]
    assert spec.options["column_prefix"] == "llm_"
    assert not {"cache_salt", "model", "prefix"} & spec.options.keys()
    assert spec.pinned({"dtype": "float32"}) == ChatSpec(model="m", stop=("a", "b"), prefix="llm_", dtype="float32")
    facts = {"revision": "1", "dtype": "float32", "pipeline": "P", "device": "cpu"}
    assert GenerateSpec(model="m").identity(facts) == {"revision": "1", "dtype": "float32", "pipeline": "P"}
