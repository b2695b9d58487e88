"""`gpu-worker` where no agent runs: what it proposes, writes, shows and says. With one: test_join.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer
import yaml

from idlegrid.api.cli.worker_options import seconds_of
from idlegrid.api.cli.worker_screen import screen
from idlegrid.api.doctor import Health
from idlegrid.api.donor.doctor import clock_finding
from idlegrid.api.donor.face import AgentState, AgentStatus, ScoreTerms

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def worker(idlegrid, tmp_path, monkeypatch):
    """A command of a donor whose home is empty at first."""
    monkeypatch.setenv("IDLEGRID_HOME", str(tmp_path / "home"))
    return lambda *words: idlegrid("worker", *words)


@pytest.mark.parametrize(
    ("typed", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2D", 172800), ("0.5h", 1800)]
)
def test_lengths_of_time(typed, seconds):
    assert seconds_of(typed) == seconds


@pytest.mark.parametrize("typed", ["", "1", "h", "1w", "1h soon", "0m", "-1h"])
def test_what_is_no_length_of_time(typed):
    with pytest.raises(typer.BadParameter, match=r"no length of time|no time at all"):
        seconds_of(typed)


def test_configure_for_scripts(worker, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Australia/Sydney")
    monkeypatch.setattr("idlegrid.api.donor.proposing.SHARE", 1000)  # a machine with memory for every type
    done = worker("configure", "https://grid.example/", "--yes", "--pull", "--name", "attic")
    assert done.code == 0
    assert "data, never code" in done.out
    written = yaml.safe_load((tmp_path / "home/config.yaml").read_text())
    types = written.pop("supported_types", None)
    assert written == {"name": "attic", "server": {"url": "https://grid.example"}, "region": "oceania"}
    assert types in (None, "embedding,image_gen,llm,vision,whisper"), "none is said where a GPU has room for all"
    worker("configure", "--yes", "--region", "asia-east")
    written = yaml.safe_load((tmp_path / "home/config.yaml").read_text())
    assert (written["name"], written["region"]) == ("attic", "asia-east"), "what was said stays said"


def test_configure_offers_what_the_memory_is_enough_for(worker, tmp_path, monkeypatch):
    monkeypatch.setattr("idlegrid.api.donor.proposing.SHARE", 1e-9)
    done = worker("configure", "https://grid.example/", "--yes", "--name", "attic")
    assert done.code == 0, done.err
    written = yaml.safe_load((tmp_path / "home/config.yaml").read_text())
    assert "llm" not in written.get("supported_types", "")


def test_configure_asks_until_it_has_an_answer(worker, tmp_path, monkeypatch):
    answers = iter(["cellar", "mars", "oceania", "always", "0", "2", "80", "15"])
    monkeypatch.setattr("typer.prompt", lambda question, default: next(answers))
    monkeypatch.setattr("typer.confirm", lambda question, **_: True)
    done = worker("configure")
    assert done.code == 0, done.err
    assert "unknown region 'mars'" in done.err
    assert "load_control.max_concurrent_jobs: 0 is not allowed" in done.err
    written = yaml.safe_load((tmp_path / "home/config.yaml").read_text())
    assert written["region"] == "oceania"
    limits = {"max_concurrent_jobs": 2, "max_gpu_memory_percent": 80.0, "only_when_idle_minutes": 15}
    assert written["load_control"] == limits


def test_set_without_an_agent(worker, tmp_path):
    assert "in force when the agent starts" in worker("set", "max_concurrent_jobs", "2").out
    slip = worker("set", "max_concurrent_job", "2")
    assert slip.code == 2
    assert "Did you mean 'load_control.max_concurrent_jobs'" in slip.err
    assert yaml.safe_load((tmp_path / "home/config.yaml").read_text()) == {"load_control": {"max_concurrent_jobs": 2}}


def test_nobody_there(worker):
    assert worker("status").out.startswith("NOT RUNNING  this machine has joined no grid")
    shown = worker("status", "--json")
    assert (shown.code, shown.json["state"], shown.json["worker_id"]) == (1, "not running", None)
    for words in (("pause",), ("resume",), ("drain",)):
        done = worker(*words)
        assert (done.code, done.err) == (1, "error: no agent runs here; `gpu-worker start` starts it\n")
    assert "no agent ever ran here" in worker("logs").err


def test_the_screen():
    status = AgentStatus(
        state=AgentState.PAUSED,
        reason="you paused it until 13:00; nothing runs here",
        since=NOW,
        worker_id="w-1",
        name="attic",
        region="oceania",
        server="https://grid.example",
        pull=True,
        types=("embedding",),
        score=ScoreTerms(0.9, 0.8, 0.7, 0.6, 0.5),
        limits={"max_concurrent_jobs": 2, "schedule": None},
    )
    shown = "\n".join(screen(status, "http://127.0.0.1:1/"))
    for words in (
        "PAUSED  you paused it",
        "score     0.90",
        "stability 0.70  raised by",
        "limits    2 at a time, around the clock (configuration 0",
        "page  ",
    ):
        assert words in shown
    assert "schedule" not in shown


@pytest.mark.parametrize(
    ("skew", "health", "words"),
    [
        (5, Health.OK, "as the grid's"),
        (-120, Health.NOTE, "120 s behind"),
        (3600, Health.PROBLEM, "3600 s ahead"),
    ],
)
def test_the_clock_beside_the_grid_s(skew, health, words):
    found = clock_finding(NOW, NOW + timedelta(seconds=skew))
    assert found.health is health
    assert words in found.found
    assert bool(found.advice) is (health is not Health.OK)
