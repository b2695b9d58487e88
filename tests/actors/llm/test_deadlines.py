"""When requests must have ended."""

from __future__ import annotations

from idlegrid.actors.llm.deadlines import Deadlines
from idlegrid.actors.llm.request import Request
from idlegrid.actors.llm.sequence import Sequence


def sequence(request_id, deadline, order):
    request = Request(id=request_id, prompt=(1, 2))
    return Sequence(request=request, rank=(False, 0.0, order), extra=(), limit=9, arrival=0.0, deadline=deadline)


def test_those_whose_time_is_over_are_told_once_the_soonest_first():
    late, soon, later = sequence("late", 2.0, 0), sequence("soon", 1.0, 1), sequence("later", 9.0, 2)
    live = {one.id: one for one in (late, soon, later)}
    deadlines = Deadlines()
    for one in live.values():
        deadlines.watch(one)
    assert deadlines.over(0.5, live) == []
    assert deadlines.over(2.0, live) == [soon, late]
    assert deadlines.over(2.0, live) == []


def test_one_that_ended_is_left_out_also_if_its_name_is_anothers_now():
    ended, other = sequence("a", 1.0, 0), sequence("a", 5.0, 1)
    deadlines = Deadlines()
    deadlines.watch(ended)
    assert deadlines.over(1.0, {}) == []
    deadlines.watch(ended)
    assert deadlines.over(1.0, {"a": other}) == []
