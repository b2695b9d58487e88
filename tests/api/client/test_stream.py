"""A stream of events over a real connection that breaks: no gap, no repeat."""

from __future__ import annotations

import pytest
from event_server import TEXTS, event_server

from idlegrid.api import GridClient
from idlegrid.api.client import Unavailable

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("torn", [False, True], ids=["between events", "within one"])
async def test_it_goes_on_behind_the_event_at_which_the_connection_broke(connect, torn):
    with event_server([17, 18, 39], torn=torn) as server:
        events = await connect(server.url).take(None, "j1")
    assert [event.seq for event in events] == list(range(1, len(TEXTS) + 3))
    assert [event.text for event in events[1:-1]] == TEXTS
    assert [event.status for event in events if event.kind == "status"] == ["running", "completed"]
    assert events[-1].final
    seen = [16, 17, 38] if torn else [17, 18, 39]
    assert server.resumed_after == [0, *seen]


async def test_a_server_that_begins_anew_repeats_nothing(connect):
    with event_server([17, 20], deaf=True) as server:
        events = await connect(server.url).take(None, "j1")
    assert [event.seq for event in events] == list(range(1, len(TEXTS) + 3))


async def test_it_begins_where_it_is_told(connect):
    with event_server([17]) as server:
        events = await connect(server.url).take(None, "j1", after=10)
    assert [event.seq for event in events] == list(range(11, len(TEXTS) + 3))


async def test_who_stops_listening_leaves_no_connection(connect):
    with event_server([]) as server:
        grid = connect(server.url)
        assert [event.seq for event in await grid.take(3, "j1")] == [1, 2, 3]
        assert len(await grid.take(None, "j1")) == len(TEXTS) + 2


async def test_a_server_that_breaks_at_the_same_event_for_ever_is_given_up(connect):
    with event_server([1] * 1000, torn=True) as server, pytest.raises(Unavailable, match="could not be used"):
        await connect(server.url, retry_for=0.5).take(None, "j1")


async def test_a_stream_in_a_notebook_where_a_loop_runs_in_the_same_thread():
    with event_server([17]) as server, GridClient(server.url) as grid:
        assert [event.seq for event in grid.stream("j1")] == list(range(1, len(TEXTS) + 3))
