"""How much may be claimed: what open workers can start, less what is on its way to them."""

from __future__ import annotations

import pytest

from idlegrid.grid.jobs import Ask
from idlegrid.pipelines.dispatch.capacity import Group, groups, welcome, without_dead_ends

KNOWN = ("embedding", "llm")


def row(id_, *, types=("embedding",), region="asia-east", state="online", slots=1, running=0, waiting=0, models=()):
    return {
        "id": id_,
        "region": region,
        "state": state,
        "supported_types": list(types),
        "models": list(models),
        "max_concurrent_jobs": slots,
        "running": running,
        "waiting": waiting,
        "gpu_memory_gb": 0.0,
    }


def grid(*rows, running=None, waiting=None):
    return {"workers": list(rows), "running_by_type": running or {}, "waiting_by_type": waiting or {}}


E, L, BOTH = frozenset({"embedding"}), frozenset({"llm"}), frozenset({"embedding", "llm"})


def test_workers_that_are_alike_are_one_group_and_the_widest_comes_first():
    state = grid(row("a"), row("b", slots=3), row("c", types=("llm",)), row("d", region="oceania", slots=2))
    assert groups(state, KNOWN, {}) == [
        Group("asia-east", E, 4),
        Group("oceania", E, 2),
        Group("asia-east", L, 1),
    ]


@pytest.mark.parametrize("state", ["paused", "draining", "offline"])
def test_who_takes_no_work_has_no_room(state):
    assert groups(grid(row("a", state=state)), KNOWN, {}) == []


def test_what_runs_and_what_lies_in_a_workers_own_queue_takes_room():
    assert groups(grid(row("a", slots=4, running=2, waiting=1, state="busy")), KNOWN, {}) == [Group("asia-east", E, 1)]
    assert groups(grid(row("a", slots=1, running=2)), KNOWN, {}) == []


def test_what_waits_at_the_scheduler_takes_room_of_those_who_could_take_it():
    state = grid(row("a", slots=3), row("b", types=("llm",)), waiting={"embedding": 2})
    assert groups(state, KNOWN, {}) == [Group("asia-east", E, 1), Group("asia-east", L, 1)]
    assert groups(grid(row("a"), waiting={"embedding": 9}), KNOWN, {}) == []


def test_what_the_scheduler_has_not_heard_of_takes_room_too():
    state = grid(row("a", slots=5, running=1), running={"embedding": 1})
    assert groups(state, KNOWN, {"embedding": 1}) == [Group("asia-east", E, 4)], "that one runs"
    assert groups(state, KNOWN, {"embedding": 3}) == [Group("asia-east", E, 2)]


def test_types_that_nobody_here_can_dispatch_are_not_claimed():
    assert groups(grid(row("a", types=("whisper",)), row("b", types=("llm", "whisper"))), KNOWN, {}) == [
        Group("asia-east", L, 1)
    ]


def test_a_worker_of_many_types_gives_its_room_once():
    state = grid(row("a", types=KNOWN, slots=2), waiting={"llm": 1})
    assert groups(state, KNOWN, {"embedding": 1}) == []
    assert groups(state, KNOWN, {}) == [Group("asia-east", BOTH, 1)]


def test_work_is_welcome_where_anybody_could_take_it():
    rows = [row("a", models=("m",)), row("b", types=("llm",))]
    assert welcome(Ask(type="embedding", model="m"), rows)
    assert not welcome(Ask(type="embedding", model="another"), rows)
    assert not welcome(Ask(type="embedding", region="oceania", allow_cross_region=False), rows)


def test_who_failed_is_avoided_unless_nobody_else_is_there():
    rows, ask = [row("a"), row("b")], Ask(type="embedding")
    assert without_dead_ends(frozenset({"a"}), ask, rows) == {"a"}
    assert without_dead_ends(frozenset({"a", "b"}), ask, rows) == frozenset()
