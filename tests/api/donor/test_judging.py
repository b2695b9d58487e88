"""What an agent wants of its worker process, and the word for its state: the owner first, always."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from idlegrid.api.donor.face import AgentState
from idlegrid.api.donor.judging import Facts, judged, wanted
from idlegrid.api.donor.work import Want

NOW = datetime(2026, 5, 6, 20, tzinfo=UTC)
FREE = Facts(now=NOW, time_zone="Europe/Berlin", ready=True)


@pytest.mark.parametrize(
    ("changes", "want", "state", "words"),
    [
        ({}, Want.WORK, AgentState.ONLINE, "takes work"),
        ({"ready": False}, Want.WORK, AgentState.STARTING, "starts"),
        ({"running": 2}, Want.WORK, AgentState.BUSY, "works on 2 jobs"),
        ({"paused": True}, Want.STOP, AgentState.PAUSED, "until you say `resume`"),
        ({"guarded": "on battery"}, Want.STOP, AgentState.PAUSED, "on battery"),
        ({"held": "too warm"}, Want.WORK, AgentState.PAUSED, "too warm"),
        ({"held": "too warm", "running": 1}, Want.WORK, AgentState.BUSY, "nothing new begins: too warm"),
        ({"closed": True}, Want.FINISH, AgentState.PAUSED, "outside your hours"),
        ({"closed": True, "running": 1}, Want.FINISH, AgentState.BUSY, "works on 1 job"),
        ({"leaving": "told"}, Want.FINISH, AgentState.DRAINING, "told: leaves, as nothing runs"),
        ({"draining": "told by the grid", "running": 1}, Want.FINISH, AgentState.DRAINING, "1 job to finish"),
        ({"stopping": True, "leaving": "told"}, Want.STOP, AgentState.DRAINING, "told"),
        ({"away": "nobody there"}, Want.WORK, AgentState.OFFLINE, "tries again by itself"),
        ({"away": "nobody there", "running": 1}, Want.WORK, AgentState.BUSY, "what runs goes on"),
        ({"refused": "blocked"}, Want.FINISH, AgentState.OFFLINE, "blocked"),
    ],
)
def test_each_fact_by_itself(changes, want, state, words):
    facts = replace(FREE, **changes)
    assert wanted(facts)[0] is want
    assert judged(facts)[0] is state
    assert words in judged(facts)[1]


def test_the_owner_comes_before_the_grid_and_the_machine():
    told = replace(
        FREE, paused=True, draining="by the grid", away="gone", refused="blocked", closed=True, guarded="hot"
    )
    assert wanted(told) == (Want.STOP, "paused by its owner")
    assert judged(told)[0] is AgentState.PAUSED
    assert wanted(replace(told, leaving="drain"))[0] is Want.STOP, "who leaves in a pause has nothing to finish"


def test_moments_are_told_by_the_owner_s_clock():
    until = datetime(2026, 5, 6, 21, 30, tzinfo=UTC)
    assert "until 23:30;" in judged(replace(FREE, paused=True, paused_until=until))[1]
    opens = datetime(2026, 5, 7, 16, tzinfo=UTC)
    assert "begin Thu 07 May, 18:00" in judged(replace(FREE, closed=True, opens_at=opens))[1]
