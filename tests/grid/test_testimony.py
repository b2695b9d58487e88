from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.testimony import told

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(number, verdict="wrong_region", detail="the job must stay in oceania"):
    said = {"worker": f"w{number}", "name": f"donor {number}", "region": "asia-east", "verdict": verdict}
    return said | {"detail": detail, "retry_at": None, "score": 1.5 if verdict == "accepted" else None}


def test_all_are_kept_where_there_is_room():
    said = told([row(1, "accepted", ""), row(2)], AT, path="dask")
    assert said["at"] == "2026-03-01T12:00:00+00:00"
    assert [one["worker"] for one in said["workers"]] == ["w1", "w2"]
    assert {one["path"] for one in said["workers"]} == {"dask"}
    assert said["workers"][0]["score"] == 1.5
    assert said["others"] == {}


def test_who_finds_no_room_is_counted_by_verdict():
    rows = [row(0, "accepted", ""), *(row(n) for n in range(1, 1000)), row(1000, "draining")]
    said = told(rows, AT, path="dask")
    assert said["workers"][0]["verdict"] == "accepted", "the best are kept first"
    assert len(said["workers"]) + sum(said["others"].values()) == 1001
    assert said["others"]["draining"] == 1


@given(st.lists(st.tuples(st.sampled_from(["accepted", "excluded", "paused"]), st.text(max_size=400)), max_size=60))
def test_it_is_never_longer_than_said_and_nobody_is_forgotten(given_rows):
    rows = [row(number, verdict, detail) for number, (verdict, detail) in enumerate(given_rows)]
    said = told(rows, AT, path="pull", longest=2_000)
    assert len(json.dumps(said)) <= 2_000
    assert len(said["workers"]) + sum(said["others"].values()) == len(rows)
