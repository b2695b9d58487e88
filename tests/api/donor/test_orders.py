"""Orders over the real socket: what is said arrives, what is told is put together, a late process hears it all."""

from __future__ import annotations

import asyncio
import stat
import threading
from datetime import UTC, datetime

import pytest

from idlegrid.api.donor.face import JobLine
from idlegrid.api.donor.orders import OrderDesk, OrderTaker, donor_order
from idlegrid.api.donor.reports import REMEMBERED, Reports, line_to_wire
from idlegrid.grid.donors import Donor, Limits

DEADLINE = 60.0
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Hands:
    """A worker process without work."""

    def __init__(self):
        self.heard = []
        self.news = threading.Condition()
        self.running = []
        self.ended = threading.Event()
        self.stuck = threading.Event()
        self.frozen = False

    def note(self, *words):
        with self.news:
            self.heard.append(words)
            self.news.notify_all()

    def wait(self, *words):
        with self.news:
            assert self.news.wait_for(lambda: words in self.heard, DEADLINE), self.heard

    def set_donor(self, donor):
        self.note("donor", donor)

    def started_before(self, at):
        self.note("started", tuple(at))

    def pause(self):
        self.note("pause")

    def resume(self):
        self.note("resume")

    def drain(self):
        self.note("drain")

    def hand_back(self, why):
        if self.frozen:
            self.stuck.wait(DEADLINE)
        self.note("hand_back", why)
        return len(self.running)

    def end(self):
        self.ended.set()

    def report(self):
        return {"running": [line_to_wire(line) for line in self.running], "loaded": ["a-model"]}


def line(job_id="one", at=NOON, **more):
    return JobLine(job_id, "trial", at, **more)


@pytest.fixture
async def desk(tmp_path):
    async with OrderDesk(tmp_path / "orders") as desk:
        yield desk


@pytest.fixture
def process(tmp_path):
    """Starts worker processes that are threads."""
    takers = []

    def start(hands):
        taker = OrderTaker(tmp_path / "orders", hands)
        takers.append(taker)
        taker.start()
        return taker

    yield start
    for taker in takers:
        taker.stop()


async def told(desk, condition):
    """Wait for a report of which `condition` holds."""
    found = asyncio.Event()

    def look(report):
        if condition(report):
            found.set()

    desk.on_report(look)
    look(desk.report)
    await asyncio.wait_for(found.wait(), DEADLINE)
    return desk.report


async def test_orders_arrive_and_a_process_that_comes_later_hears_those_that_stand(desk, process):
    donor = Donor(id="d", limits=Limits(max_concurrent_jobs=3))
    assert not await desk.say(donor_order(donor))
    await desk.say({"order": "pause"})
    first = Hands()
    one = process(first)
    await asyncio.to_thread(first.wait, "donor", donor)
    await asyncio.to_thread(first.wait, "pause")
    assert await desk.say({"order": "resume"})
    await asyncio.to_thread(first.wait, "resume")
    await asyncio.to_thread(one.stop)
    second = Hands()
    process(second)
    await asyncio.to_thread(second.wait, "resume")
    assert ("pause",) not in second.heard


async def test_reports_come_at_once_and_survive_their_process(desk, process):
    hands = Hands()
    hands.running = [line()]
    taker = process(hands)
    report = await told(desk, lambda report: report.running)
    assert report.running == (line(),)
    assert report.loaded == ("a-model",)
    await asyncio.to_thread(taker.stop)
    report = await told(desk, lambda report: report.finished)
    assert (report.running, report.finished[0].outcome) == ((), "interrupted")
    process(later := Hands())
    await asyncio.to_thread(later.wait, "started", ())


async def test_a_hand_back_is_answered_and_ends_the_process(desk, process):
    hands = Hands()
    hands.running = [line()]
    process(hands)
    await told(desk, lambda report: report.running)
    assert await desk.hand_back("paused by its owner", DEADLINE)
    await asyncio.to_thread(hands.ended.wait, DEADLINE)
    assert ("hand_back", "paused by its owner") in hands.heard


async def test_a_process_that_does_not_answer_is_told_of(desk, process):
    assert not await desk.hand_back("nobody is there", DEADLINE)
    hands = Hands()
    hands.frozen = True
    process(hands)
    await told(desk, lambda report: report.loaded)
    assert not await desk.hand_back("it is stuck", 0.2)
    hands.stuck.set()


async def test_an_order_that_makes_no_sense_changes_nothing(desk, process):
    hands = Hands()
    process(hands)
    await told(desk, lambda report: report.loaded)
    await desk.say({"order": "donor", "donor": {"id": ""}})
    await desk.say({"order": "pause"})
    await asyncio.to_thread(hands.wait, "pause")
    assert all(words[0] in ("started", "pause") for words in hands.heard)


async def test_only_its_owner_may_open_the_socket_however_long_its_path(tmp_path, process):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    async with OrderDesk(folder / "orders") as desk:
        assert stat.S_IMODE((folder / "orders").stat().st_mode) == 0o600
        taker = OrderTaker(folder / "orders", Hands())
        taker.start()
        await asyncio.wait_for(desk.wait_connected(), DEADLINE)
        await asyncio.to_thread(taker.stop)
    assert not (folder / "orders").exists()


def test_what_many_processes_finished_is_kept_once_and_not_for_ever():
    reports = Reports()
    ended = [line_to_wire(line(str(n), ended_at=NOON, outcome="completed")) for n in range(REMEMBERED + 10)]
    reports.heard({"finished": ended})
    reports.heard({"finished": ended[-3:]})
    assert [one.job_id for one in reports.latest.finished] == [str(n) for n in range(REMEMBERED + 9, 9, -1)]


def test_starts_are_those_of_the_last_hour():
    reports = Reports()
    reports.heard({"running": [line_to_wire(line())], "finished": [line_to_wire(line("two", ended_at=NOON))]})
    reports.gone(NOON, "interrupted")
    now = NOON.timestamp()
    assert reports.starts(now + 3000) == [now, now]
    assert reports.starts(now + 3601) == []
