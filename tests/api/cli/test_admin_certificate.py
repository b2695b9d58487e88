"""`idlegrid admin certificate`: files for another machine."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest

from idlegrid.grid.certificate_files import Paper
from idlegrid.grid.peers import Peer, Role


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("IDLEGRID_SCHEDULER_TLS_FOLDER", str(tmp_path / "tls"))
    monkeypatch.chdir(tmp_path)


def test_a_client_s(idlegrid, tmp_path):
    done = idlegrid("admin", "certificate", "--out", tmp_path / "out", "--name", "ann")
    assert done.code == 0
    assert done.out.splitlines() == [str(tmp_path / "out" / "client.pem"), str(tmp_path / "out" / "ca.pem")]
    assert f"IDLEGRID_SCHEDULER_TLS_FOLDER={tmp_path / 'out'}" in done.err.replace("\n", "")
    paper = Paper(tmp_path / "out" / "client.pem")
    assert paper.read().peer == Peer(Role.CLIENT, "ann")
    assert stat.S_IMODE(paper.file.stat().st_mode) == 0o600
    paper.check()


def test_a_worker_s_for_a_few_days(idlegrid, tmp_path):
    done = idlegrid("admin", "certificate", "-o", tmp_path, "--role", "worker", "--days", "2", "--json")
    assert done.json["name"] == "worker"
    left = datetime.fromisoformat(done.json["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=1) < left < timedelta(days=3)
    assert Paper(tmp_path / "worker.pem").read().peer == Peer(Role.WORKER, "worker")


@pytest.mark.parametrize("words", [("--role", "king"), ("--name", "a/b"), ("--days", "0")])
def test_what_makes_no_sense_is_refused(idlegrid, tmp_path, words):
    done = idlegrid("admin", "certificate", "-o", tmp_path / "out", *words)
    assert done.code == 2
    assert not (tmp_path / "out").exists()
