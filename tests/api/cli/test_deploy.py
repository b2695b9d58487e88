"""`idlegrid deploy`, `undeploy` and `deployments` against the real service, and the strip of blocks."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "http"))  # their helpers: a real service over a real store
sys.path.insert(0, str(Path(__file__).parents[1] / "client"))

from jobs_service import Service
from live_service import serving

from idlegrid.api.cli.deployments import lines
from idlegrid.api.strip import strip_lines
from idlegrid.grid.deployments import DeploymentReport, DeploymentState, HeldLayers
from idlegrid.grid.store import SERVING, open_store

TINY = "idlegrid-tiny"


@pytest.fixture
def store(sqlite_url):
    with open_store(sqlite_url) as store:
        yield store


@pytest.fixture
def service(store, monkeypatch):
    with serving(Service(store)) as url:
        monkeypatch.setenv("GPU_SERVER_URL", url)
        yield url


def part(donor, first, stop, phase="ready"):
    return {"worker_id": donor, "first": first, "stop": stop, "phase": phase, "replica": 1}


def told(*coverage, layers, missing=()):
    return {"num_layers": layers, "coverage": list(coverage), "missing": [list(gap) for gap in missing]}


def test_nobody_there(idlegrid, monkeypatch):
    monkeypatch.setattr("idlegrid.api.cli.service.PATIENCE", 0.05)
    for command in (("deploy", TINY), ("undeploy", TINY), ("deployments",)):
        done = idlegrid(*command, "--url", "http://127.0.0.1:1")
        assert done.code == 1
        assert done.err.startswith("error: http://127.0.0.1:1 could not be used")
        assert "idlegrid up" in done.err


@pytest.mark.parametrize("text", ["a-b", "0-", "0-4,", "-3"])
def test_ranges_that_are_none(idlegrid, text):
    done = idlegrid("deploy", TINY, f"--layers={text}", "--url", "http://127.0.0.1:1")
    assert done.code == 2
    assert "--layers" in done.err


def test_how_fast_who_is_stands_beside_the_marks_where_there_is_room():
    slow = part("local-0", 0, 2) | {"layer_ms": 12.0, "speed": "measured"}
    quick = part("local-1", 2, 4) | {"layer_ms": 0.41, "speed": "presumed"}
    shown = strip_lines(told(slow, quick, layers=4))
    assert shown == [
        "  block    0  1  2  3",
        "  local-0  ██████······  12 ms measured",
        "  local-1  ······██████  0.41 ms presumed",
    ]
    narrow = strip_lines(told(slow, quick, layers=4), width=24)
    assert narrow[1] == "  local-0  ██████······", "the marks come first"


def test_a_strip_of_few_blocks():
    shown = strip_lines(
        told(
            part("local-0", 0, 2),
            part("local-1", 2, 5, "loading"),
            part("", 5, 6, "placing"),
            layers=7,
            missing=[(2, 7)],
        )
    )
    assert shown == [
        "  block     0  1  2  3  4  5  6",
        "  local-0   ██████···············",
        "  local-1   ······▒▒▒▒▒▒▒▒▒······",
        "  (sought)  ···············░░░···",
        "  nobody          !!!!!!!!!!!!!!!",
    ]


@pytest.mark.parametrize("layers", [1, 24, 36, 61, 80, 126, 400])
def test_no_strip_is_too_wide(layers):
    half = layers // 2
    shown = strip_lines(
        told(
            part("a-donor-with-a-very-long-name", 0, half),
            part("b", half, layers),
            layers=layers,
            missing=[(0, layers)],
        )
    )
    assert max(map(len, shown)) <= 80
    assert "a-donor-with-a-…" in "".join(shown)
    assert ("blocks" in shown[-1]) == (layers > 60)


def test_nobody_knows_how_many_blocks_there_are():
    assert strip_lines(told(part("a", 0, 0, "loading"), layers=None)) == ["  a       ▒  whole model"]
    assert strip_lines(told(layers=None)) == []


def test_what_is_said_when_nobody_serves():
    assert list(lines({"deployments": [], "serving": None}, 80)) == [
        "nothing is deployed; `idlegrid deploy MODEL` does it"
    ]


def test_the_life_of_a_deployment(idlegrid, service, store):
    made = idlegrid("deploy", TINY, "--layers", "0-1,2-5", "--region", "oceania")
    assert (made.code, made.out) == (0, f"{TINY} is wanted, version 1\n")
    spec = store.deployments.get(TINY).spec
    assert (spec.layers, spec.region) == (((0, 2), (2, 6)), "oceania")
    assert idlegrid("deploy", TINY, "--region", "oceania").out == f"{TINY} is wanted already, version 1\n"
    assert idlegrid("deploy", TINY, "--stages", "3", "--json").json["stages"] == 3
    shown = idlegrid("deployments").out
    assert shown.splitlines()[0].startswith("nobody serves them now")
    assert f"{TINY}  waiting: 0 of 1 replicas serve in 3 stages, oceania, version 2" in shown
    missed = idlegrid("undeploy", "idlegrid-tinny")
    assert missed.code == 1
    assert "is not deployed; idlegrid-tiny is. Did you mean 'idlegrid-tiny'?" in missed.err
    assert idlegrid("undeploy", TINY).out == f"{TINY} is not wanted any more\n"
    assert idlegrid("deployments", "--json").json["deployments"][0]["state"] == "ending"
    wrong = idlegrid("deploy", TINY, "--engine", "tortch")
    assert wrong.code == 1
    assert "engine" in wrong.err


def test_the_service_of_this_machine_is_found_wherever_it_listens(idlegrid, store, monkeypatch, tmp_path):
    with serving(Service(store)) as url:
        port = url.rpartition(":")[2]
        monkeypatch.setenv("IDLEGRID_API_PORT", port)
        assert idlegrid("deploy", TINY).code == 0
        monkeypatch.delenv("IDLEGRID_API_PORT")
        config = tmp_path / "config.yaml"
        config.write_text(f"api:\n  port: {port}\n")
        assert TINY in idlegrid("deployments", "--config", config).out
        assert idlegrid("jobs", "ls", "--config", config).code == 0
        monkeypatch.setenv("GPU_SERVER_URL", "http://127.0.0.1:1")
        monkeypatch.setattr("idlegrid.api.cli.service.PATIENCE", 0.05)
        assert idlegrid("deployments", "--config", config).code == 1, "who is named is asked, and nobody else"


def test_waiting_until_it_serves(idlegrid, service, store):
    """Somebody serves it meanwhile; the control is one that can't be served."""

    def serve(report):
        lease = store.leases.hold(SERVING, "tests", 60)
        while store.deployments.get(TINY) is None:
            time.sleep(0.01)
        store.deployments.report(TINY, report, lease.fence)

    held = (HeldLayers("local-0", 0, 6, "ready", 1),)
    ready = DeploymentReport(state=DeploymentState.READY, version=1, ready=1, num_layers=6, coverage=held)
    thread = threading.Thread(target=serve, args=(ready,))
    thread.start()
    done = idlegrid("deploy", TINY, "--wait", "--timeout", "60")
    thread.join()
    assert done.code == 0, done.err
    assert done.out.endswith("1 of 1 replicas serve\n  block    0  1  2  3  4  5\n  local-0  " + "█" * 18 + "\n")
    serve(DeploymentReport(state=DeploymentState.REFUSED, version=1, why="no such thing"))
    refused = idlegrid("deploy", TINY, "--wait", "--timeout", "60")
    assert refused.code == 1
    assert "error: no such thing" in refused.err
