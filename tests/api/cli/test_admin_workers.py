"""`idlegrid admin enroll` and `idlegrid admin workers`: on the database itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idlegrid.grid.secret import load_secret
from idlegrid.grid.store import Beat, NewWorker, Store, open_store


@pytest.fixture
def store(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The store that the commands use."""
    secret = tmp_path / "secret"
    monkeypatch.setenv("IDLEGRID_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("IDLEGRID_DATABASE_SECRET_FILE", str(secret))
    monkeypatch.chdir(tmp_path)
    with open_store(sqlite_url, secret=lambda: load_secret(secret)) as store:
        yield store


def test_one_line_for_one_machine(idlegrid, store: Store):
    done = idlegrid("admin", "enroll", "--valid", "90m", "--owner", "ada", "--url", "https://grid.example/")
    assert done.code == 0
    line = re.fullmatch(r"gpu-worker join https://grid\.example (ige_\S+)\n", done.out)
    assert line
    assert "good for one machine" in done.err
    made = store.credentials.register(line[1], NewWorker(name="n", region="oceania"))
    donor = store.donors.get(made.worker_id)
    assert donor is not None
    assert donor.owner == "ada"
    told = idlegrid("admin", "enroll", "--json").json
    assert told["join"] == f"gpu-worker join http://127.0.0.1:8000 {told['token']}"
    assert idlegrid("admin", "enroll", "--valid", "soon").code == 2


def test_an_operator_looks_after_workers(idlegrid, store: Store):
    token = idlegrid("admin", "enroll", "--owner", "ada", "--json").json["token"]
    id_ = store.credentials.register(token, NewWorker(name="attic", region="oceania")).worker_id
    store.donors.heartbeat(Beat(worker_id=id_, status="online", incarnation="i"))
    assert id_ in idlegrid("admin", "workers", "ls").out
    assert idlegrid("admin", "workers", "block", id_[:12], "--json").json["blocked"]
    assert "blocked" in idlegrid("admin", "workers", "ls").out
    assert "let in again" in idlegrid("admin", "workers", "unblock", id_).out
    assert idlegrid("admin", "workers", "drain", id_, "--json").json["commands"] == ["drain"]
    assert idlegrid("admin", "workers", "resume", id_, "--json").json["commands"] == ["resume"]
    assert idlegrid("admin", "workers", "restart", id_, "--json").json["commands"] == ["resume", "restart"]
    assert idlegrid("admin", "workers", "shutdown", id_, "--json").json["commands"] == ["resume", "restart", "shutdown"]
    assert idlegrid("admin", "workers", "unlock", id_).code == 0
    [listed] = idlegrid("admin", "workers", "ls", "--json").json
    assert (listed["owner"], listed["status"], listed["blocked"]) == ("ada", "offline", False), (
        "until it is heard of again"
    )
    assert {entry.actor for entry in store.audit.list(id_)} >= {"command line"}
    done = idlegrid("admin", "workers", "block", "w-none")
    assert (done.code, "admin workers ls" in done.err) == (1, True)
