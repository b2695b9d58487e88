"""R3, R13 and R15 for `gpu-worker` itself: its scheduler dies, it is told to go, its clock and time zone are others.

Real processes. Beside the agent that is tested stands one without its protections: the control.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from machines import DEADLINE, HERE, Agent, Machines, until

from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.pipelines.dispatch.runner import Heart
from idlegrid.pipelines.dispatch.work_order import Identity, WorkOrder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
THERE, ELSEWHERE = "asia-south", "america-south"
"""Of the control, and of the machine with another clock: jobs that must stay there are theirs alone."""
CARELESS = """
import runpy
from idlegrid.api import supervision
from idlegrid.api.donor import running

judge = supervision.Supervised._judge

def believing(self, code):
    if code == 0:
        raise SystemExit("code 0 was taken for an end")
    judge(self, code)

supervision.Supervised._judge = believing
running.leave_on_signals = lambda *_: None
runpy.run_module("idlegrid.api.cli", run_name="__main__")
"""
"""An agent as most are: what ends with code 0 has ended, and SIGTERM ends it at once."""
CLOCK = """
import ctypes, datetime, gc, os, time
now, real, monotonic, seen = datetime.datetime.now, time.time, time.monotonic, [0.0, -1.0]

def ahead():
    if monotonic() - seen[1] > 0.05:
        with open(os.environ["TEST_CLOCK"]) as file:
            seen[:] = float(file.read() or seen[0]), monotonic()
    return seen[0]

time.time = lambda: real() + ahead()
moved = classmethod(lambda cls, tz=None: now(tz) + datetime.timedelta(seconds=ahead()))
gc.get_referents(datetime.datetime.__dict__)[0]["now"] = moved
ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
"""
"""As `sitecustomize`: every wall clock of Python in a process is ahead by as many seconds as a file says."""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("agents"))
    machines.environment |= {"GPU_SUPPORTED_TYPES": "trial", "IDLEGRID_JOBS_LEASE": "120"}
    try:
        machines.up()
        yield machines
    finally:
        machines.close()


class Careless(Agent):
    """See CARELESS."""

    def start(self, *words: object, **variables: str) -> None:
        self.process = self.machines.python(
            self.name, "-c", CARELESS, "worker", *words, "--home", self.folder, **variables
        )


@pytest.fixture(scope="module")
def both(machines: Machines) -> tuple[Agent, Agent]:
    agents = Agent(machines, "careful"), Careless(machines, "careless")
    for agent, region in zip(agents, (HERE, THERE), strict=True):
        agent.start("join", machines.url, machines.token(), "--yes", "--region", region)
    for agent in agents:
        assert not agent.wait_for("online").pull
    return agents


def serves(machines: Machines, region: str) -> None:
    job = machines.ended(machines.submit(region, value=7))
    assert (job["status"], job["attempts"]) == ("completed", 1)


def test_r13_told_to_go_it_finishes_what_runs_and_takes_nothing_new(machines: Machines, both: tuple[Agent, Agent]):
    regions = HERE, THERE
    running = [machines.submit(region, value=1, seconds=3) for region in regions]
    for job_id in running:
        until(lambda job_id=job_id: machines.job(job_id)["worker_id"], lambda: "it did not begin")
    waiting = [machines.submit(region, value=2) for region in regions]
    for agent in both:
        agent.process.send_signal(signal.SIGTERM)
    codes = [agent.process.wait(DEADLINE) for agent in both]
    first, second = (machines.job(job_id) for job_id in (running[0], waiting[0]))
    assert codes == [0, -signal.SIGTERM]
    assert (first["status"], first["attempts"]) == ("completed", 1), "no rerun"
    assert second["attempts"] == 0, "nothing new"
    for agent in both:
        agent.start("start")
    ended = [[machines.ended(job_id)["attempts"] for job_id in jobs] for jobs in zip(running, waiting, strict=True)]
    assert ended[0] == [1, 1]
    assert ended[1][0] == 2, "the control: what ran was lost, and runs again"


def test_r3_its_worker_comes_back_though_it_ends_with_code_0(machines: Machines, both: tuple[Agent, Agent]):
    careful, careless = both
    for agent in both:
        agent.wait_for("online")
    before = careful.workers()[0].pid
    up = next(process for process in machines.started if "up" in process.args)
    [scheduler] = [one for one in psutil.Process(up.pid).children() if "scheduler" in one.cmdline()]
    began = time.monotonic()
    os.kill(scheduler.pid, signal.SIGKILL)
    assert careless.process.wait(DEADLINE) != 0
    assert "code 0 was taken for an end" in machines.said("careless"), "the control: it is gone for good"
    until(lambda: [one for one in careful.workers() if one.pid != before], lambda: machines.said("careful"))
    careful.wait_for("online")
    serves(machines, HERE)
    print(f"\nR3: a job was done {time.monotonic() - began:.1f} s after the scheduler's death")
    assert "ended with code 0" in careful.home.log.read_text()
    assert len(careful.workers()) == 1


def test_r15_another_time_zone_and_a_clock_that_is_set(machines: Machines, tmp_path: Path):
    """The zone changes nothing. With a clock that is an hour off nothing that is signed is taken, and everybody says
    why; a lease is not lost by it, and what was computed meanwhile is told when the clock is right again.
    """
    clock = tmp_path / "ahead"
    clock.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    path = f"{tmp_path}{os.pathsep}{machines.environment['PYTHONPATH']}"
    where = {"PYTHONPATH": path, "TEST_CLOCK": str(clock), "TZ": "Asia/Shanghai"}
    agent = Agent(machines, "elsewhere")
    agent.start("join", machines.url, machines.token(), "--yes", "--region", ELSEWHERE, "--pull", **where)
    assert agent.wait_for("online").limits["time_zone"] == "Asia/Shanghai"
    serves(machines, ELSEWHERE)

    job_id = machines.submit(ELSEWHERE, value=8, seconds=4)
    agent.wait_for("busy")
    _set(clock, 3600)
    told = _why(machines, agent, "ahead of the server's")
    assert "clock_skew" in told
    assert "its time zone does not matter" in told
    assert re.search(r"clock is 36\d\d s ahead of the grid's", agent.says("doctor", "--json", code=1, **where))
    until(lambda: agent.workers() == [], lambda: "what runs ends, and nothing new begins")
    assert machines.job(job_id)["status"] == "running", "it can't be told now"
    _set(clock, -3600)
    _why(machines, agent, "behind the server's")

    _set(clock, 0)
    agent.wait_for("online")
    job = machines.ended(job_id)
    assert (job["status"], job["attempts"]) == ("completed", 1), "its lease was not lost, its result was kept"
    serves(machines, ELSEWHERE)


def _set(clock: Path, seconds: int) -> None:
    draft = clock.with_name("draft")
    draft.write_text(str(seconds))
    draft.replace(clock)


def _why(machines: Machines, agent: Agent, words: str) -> str:
    """The reason that the agent gives, once it has these words in it."""

    def there() -> str | None:
        status = agent.status()
        return status.reason if status is not None and words in status.reason else None

    return str(until(there, lambda: machines.said(agent.name)))


def test_r15_a_lease_by_a_wall_clock_would_be_lost():
    """The control: the same jump, judged by the clock that jumped."""
    order = WorkOrder(
        job_id="a", fence=1, type="trial", params={}, timeout_seconds=60, lease_seconds=30, token="", api=()
    )
    ahead, doors, who = 0.0, Doors(), Identity("w", "i")
    wall, right = Heart(order, who, doors, lambda: time.monotonic() + ahead), Heart(order, who, doors)
    assert (wall.why_stop(), right.why_stop()) == (None, None)
    ahead = 3600.0
    assert (wall.why_stop(), right.why_stop()) == ("lost", None)
    doors.close()
