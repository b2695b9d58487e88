"""Lanes: parsed once, in order, and never longer than what waits."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.jobs import Ask
from idlegrid.scheduler_plugins.lanes import Lanes

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def task(key, priority=(0,), *, says=None, workers=None):
    """What `Lanes` reads of Dask's TaskState."""
    return SimpleNamespace(
        key=key,
        priority=priority,
        annotations={"grid": {"type": "embedding"} if says is None else says},
        worker_restrictions=workers,
        host_restrictions=None,
        resource_restrictions=None,
        loose_restrictions=False,
    )


def test_tasks_that_say_the_same_share_a_lane_and_others_do_not():
    lanes = Lanes()
    same = {"type": "embedding"}
    lane = lanes.of(task("a", says=same))
    assert lane.ask == Ask(type="embedding")
    assert lanes.of(task("b", says=same)) is lane is lanes.of(task("c", says=dict(same)))
    assert lanes.of(task("d", says={"type": "llm"})) is not lane
    pinned = lanes.of(task("e", says=same, workers={"x"}))
    assert pinned is not lane
    assert pinned is lanes.of(task("f", says=same, workers={"x"}))
    assert lanes.of(task("g", says={"type": "embedding", "excluded": ["z", "y"]})).ask.excluded == {"y", "z"}
    stock = task("h")
    stock.annotations = {"priority": 3}
    assert lanes.of(stock) is None


UNREADABLE = [7, {}, {"type": ""}, {"type": 7}, {"type": "llm", "tpye": 1}, {"type": "llm", "model": []}]


@pytest.mark.parametrize("says", UNREADABLE)
def test_what_cannot_be_read_is_no_ask(says):
    lanes = Lanes()
    lane = lanes.of(task("a", says=says))
    assert "can't be read" in lane.error
    lanes.add(lane, task("a", says=says), NOW)
    assert lanes.unreadable() == [lane]


def test_the_object_of_one_graph_is_never_taken_for_another():
    """Identity of the annotation object is the fast path; ids are used again once an object is gone."""
    lanes = Lanes()
    for number in range(5000):
        assert lanes.of(task("a", says={"type": f"type {number}"})).ask.type == f"type {number}"


def test_memory_is_bounded_by_what_waits():
    lanes = Lanes()
    kept = task("kept", says={"type": "kept"})
    lanes.add(lanes.of(kept), kept, NOW)
    for number in range(10_000):
        lanes.of(task("a", says={"type": f"type {number}"}))
    assert len(lanes._by_contents) <= 4097
    assert len(lanes._by_object) <= 1024
    assert lanes.of(kept) is lanes.get("kept").lane


@given(st.lists(st.tuples(st.sampled_from("aru"), st.integers(0, 15), st.integers(0, 3)), max_size=120))
def test_the_first_is_always_the_oldest_of_the_best_priority(events):
    """Tasks come (a), go (r) or are tried in vain (u), in any order."""
    lanes, model, arrivals = Lanes(), {}, 0
    lane = lanes.of(task("x"))
    for event, number, priority in events:
        if event == "a" and number not in model:
            arrivals += 1
            model[number] = (priority, arrivals)
            lanes.add(lane, task(number, (priority,)), NOW)
        elif event == "r":
            assert (lanes.remove(number) is None) is (model.pop(number, None) is None)
        elif event == "u" and lanes.first(lane):
            place = lanes.take(lane)
            if number % 2:
                lanes.remove(place.key)
                model.pop(place.key)
            assert lanes.put_back(place) is not bool(number % 2)
        first = lanes.first(lane)
        assert (first and first.key) == (min(model, key=model.get) if model else None)
        assert len(lanes) == lane.waiting == len(model)
        assert len(lane.places) <= 2 * len(model) + 17
        assert lanes.waiting_by_type() == ({"embedding": len(model)} if model else {})
        if model:
            last = max(model, key=model.get)
            assert lanes.ahead(last) == len(model) - 1
