"""A12: a task that misbehaves is ended within seconds, with all that it started; who asked for it goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import naughty
import psutil
import pytest

from idlegrid.actors.isolation.task import TaskDied, TaskFailed, run_isolated
from idlegrid.grid.job_types import Cancelled, RunContext
from idlegrid.grid.task_limits import LimitBroken, TaskLimits

pytestmark = pytest.mark.slow
MB = 1_000_000
LIMITS = TaskLimits(memory_bytes=300 * MB, wall_seconds=30, output_bytes=20 * MB, processes=24, files=200)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("naughty")
    naughty.install(folder)
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = {one.pid for one in psutil.process_iter()}
    yield
    mine = [one for one in psutil.Process().children(recursive=True) if one.pid not in before]
    assert [one for one in mine if one.status() != psutil.STATUS_ZOMBIE] == []


def test_the_result_comes_back_with_what_was_told():
    heard = []
    context = RunContext(progress=lambda facts: heard.append(dict(facts)), tokens=heard.append)
    result = run_isolated("naughty", {"mark": "hello"}, context, LIMITS)
    assert result.startswith(b'{"answer":"hello from ')
    assert str(os.getpid()).encode() not in result
    assert heard == [{"done": 1}, "hello"]


@pytest.mark.parametrize(
    ("do", "code"),
    [
        ("bomb", "processes_limit"),
        ("memory", "memory_limit"),
        ("printing", "output_limit"),
        ("result", "output_limit"),
        ("tokens", "output_limit"),
        ("sockets", "files_limit"),
    ],
)
def test_a_limit_is_broken(do, code):
    begun = time.monotonic()
    with pytest.raises(LimitBroken) as caught:
        run_isolated("naughty", {"do": do}, limits=LIMITS)
    assert caught.value.code == code
    assert time.monotonic() - begun < 25  # 5 on a quiet machine, of which the start is one


def test_an_endless_loop():
    limits = TaskLimits(wall_seconds=1.5)
    with pytest.raises(LimitBroken, match=r"longer than 1.5 s"):
        run_isolated("naughty", {"do": "loop"}, limits=limits)


@pytest.fixture(params=["as it is here", "without a control group"])
def group(request, monkeypatch):
    if request.param != "as it is here":
        monkeypatch.setattr("idlegrid.actors.isolation.task.make", lambda *_: None)


def test_what_a_task_leaves_behind_is_ended_too(group):
    mark = uuid.uuid4().hex
    assert run_isolated("naughty", {"do": "leaves", "mark": mark}, limits=LIMITS) == b'{"answer":"left"}'
    assert marked(mark) == []


def test_control_without_a_warden_it_lives_on(tmp_path):
    mark = uuid.uuid4().hex
    code = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(60)"
    starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}, {mark!r}])"
    subprocess.run([sys.executable, "-c", starter], check=True, process_group=0)
    for one in wait_for(lambda: marked(mark)):
        one.kill()


@pytest.mark.parametrize(
    ("do", "error", "told"),
    [
        ("segfault", TaskDied, "SIGSEGV"),
        ("fails", TaskFailed, "KeyError: 'nothing there'"),
        ("refuses", ValueError, "mark: nobody can use it"),
    ],
)
def test_other_ends(do, error, told):
    with pytest.raises(error, match=told):
        run_isolated("naughty", {"do": do}, limits=LIMITS)


def test_parameters_that_the_type_does_not_take():
    with pytest.raises(ValueError, match="extra"):
        run_isolated("naughty", {"extra": 1}, limits=LIMITS)


def test_a_type_that_is_not_installed():
    with pytest.raises(TaskFailed, match="unknown job type 'nowhere'"):
        run_isolated("nowhere", {}, limits=LIMITS)


def test_cancelled():
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(Cancelled):
        run_isolated("naughty", {"do": "waits"}, RunContext(cancelled=stop.is_set), LIMITS)


def test_a_task_knows_no_secret(monkeypatch):
    monkeypatch.setenv("IDLEGRID_API_KEY", "a secret")
    monkeypatch.setenv("HF_TOKEN", "another")
    told = run_isolated("naughty", {"do": "environment"}, limits=LIMITS).decode()
    assert "PATH" in told
    assert "IDLEGRID_API_KEY" not in told
    assert "HF_TOKEN" not in told


def test_a_task_ends_with_its_worker(tmp_path):
    """The worker is killed outright: the warden hears of it, and ends what the task started."""
    mark = uuid.uuid4().hex
    code = (
        f"import sys; sys.path.append({sys.path[-1]!r});"
        "from idlegrid.actors.isolation.task import run_isolated;"
        f"run_isolated('naughty', {{'do': 'waits', 'mark': {mark!r}}})"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    try:
        family = wait_for(lambda: len(found := psutil.Process(worker.pid).children(recursive=True)) >= 2 and found)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))


def marked(mark):
    return [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])]


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
