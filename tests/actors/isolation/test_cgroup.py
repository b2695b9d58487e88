"""Where a group for a task is looked for. The kernel's part is used by test_task.py, on machines that allow it."""

import signal
import subprocess
import sys

import pytest

from idlegrid.actors.isolation import cgroup


@pytest.fixture
def machine(tmp_path):
    """A machine with cgroup v2, whose files are plain ones: what is written can be read."""

    def make(own="/user.slice/agent.service/agent", lends=("",)):
        top = tmp_path / "cgroup2"
        for path in lends:
            (top / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        proc = tmp_path / "proc"
        proc.mkdir(exist_ok=True)
        (proc / "cgroup").write_text(f"4:memory:/old\n0::{own}\n")
        (proc / "mountinfo").write_text(
            f"1 0 0:1 / /proc rw - proc proc rw\n2 0 0:2 / {top} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
        )
        return proc, top

    return make


def test_our_own_group_and_the_one_around_it(machine):
    proc, top = machine()
    assert cgroup._parents(proc) == [top / "user.slice/agent.service/agent", top / "user.slice/agent.service"]
    proc, top = machine(own="/")
    assert cgroup._parents(proc) == [top]


def test_without_cgroup_v2_there_is_none(tmp_path, machine):
    assert cgroup.make(1, 1, tmp_path / "nowhere") is None
    proc, _ = machine()
    (proc / "cgroup").write_text("4:memory:/old\n")
    assert cgroup.make(1, 1, proc) is None


def test_one_that_does_nothing_for_us_is_removed(machine):
    """A folder without the kernel's files neither bounds nor ends anything."""
    own = "/agent.service/agent"
    proc, top = machine(own, lends=[own])
    assert cgroup.make(1000, 5, proc) is None
    assert [path.name for path in (top / "agent.service").iterdir() if path.is_dir()] == ["agent"]


def test_the_kernel_ends_a_group_at_once():
    group = cgroup.make(1 << 30, 10)
    if group is None:
        pytest.skip("this process may make no control group (cgroup v2)")
    code = (
        "import sys, time; from pathlib import Path; from idlegrid.actors.isolation.cgroup import Cgroup;"
        "Cgroup(Path(sys.argv[1]), False).join(); print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(group.path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"in\n"
            assert not group.remove()
            group.kill()
            assert process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()
    assert not group.out_of_memory()
    assert group.remove()
    assert not group.path.exists()
    assert group.remove()
