"""A store is opened by its URL, and says what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from idlegrid.grid.store import NewJob, StoreUnavailable, open_store
from idlegrid.grid.store.database import default_url, parsed_url, psycopg_style


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:////tmp/x.db", "sqlite+pysqlite"),
        ("postgresql://h/d", "postgresql+psycopg"),
        ("postgres://h/d", "postgresql+psycopg"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg"),
    ],
)
def test_urls(url: str, driver: str):
    assert parsed_url(url).drivername == driver


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "no url", "sqlite://", "sqlite:///:memory:", "grid.db"])
def test_other_databases_are_refused_without_their_password(url: str):
    with pytest.raises(ValueError, match="IDLEGRID_DATABASE_URL") as refused:
        open_store(url)
    assert "hunter2" not in str(refused.value)


def test_the_default_is_a_file_in_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_url().database == str(tmp_path / "idlegrid" / "idlegrid.db")


def test_opening_does_nothing_yet(tmp_path):
    open_store(f"sqlite:///{tmp_path / 'x' / 'grid.db'}").close()
    open_store("postgresql://nobody@127.0.0.1:1/none").close()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there():
    with open_store("postgresql://nobody@127.0.0.1:1/none", timeout=2) as store:
        for call in (store.check, store.upgrade, lambda: store.jobs.accept(NewJob(type="noop"))):
            with pytest.raises(StoreUnavailable, match="refused"):
                call()


def test_no_connection_is_free(tmp_path):
    with open_store(f"sqlite:///{tmp_path / 'grid.db'}", pool_size=1, timeout=0.05) as store:
        store.upgrade()
        with store._database.read(), pytest.raises(StoreUnavailable, match="no connection"):
            store.jobs.get("x")


def test_an_error_does_not_tell_what_was_asked(tmp_path):
    with open_store(f"sqlite:///{tmp_path / 'grid.db'}") as store, pytest.raises(StoreUnavailable) as failed:
        store.jobs.accept(NewJob(type="noop", params={"prompt": "canary"}))
    assert "canary" not in f"{failed.value} {failed.value.__cause__} {failed.value.__cause__.__cause__}"


def test_parameters_for_psycopg():
    assert psycopg_style("SELECT :a::text[], '{\"x\":1}', b % 2 WHERE c = :d_e") == (
        "SELECT %(a)s::text[], '{\"x\":1}', b %% 2 WHERE c = %(d_e)s"
    )


ZONE = """
import sys
from datetime import UTC, datetime
from idlegrid.grid.store import NewJob, open_store
store = open_store(sys.argv[1])
job = store.jobs.accept(NewJob(type="noop")).job
[claim] = store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d")
assert abs((job.created_at - datetime.now(UTC)).total_seconds()) < 30
assert 25 < (claim.lease_until - job.created_at).total_seconds() < 60
assert job.created_at.utcoffset().total_seconds() == 0
"""


@pytest.mark.slow
def test_the_time_zone_of_the_machine_does_not_matter(store_url: str):
    environment = {**os.environ, "TZ": "Asia/Shanghai"}
    subprocess.run([sys.executable, "-c", ZONE, store_url], env=environment, check=True, timeout=100)


def test_grid_does_not_need_sqlalchemy():
    """The base install has no database."""
    check = "import sys; import idlegrid.grid.jobs, idlegrid.grid.job_rules; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=100)
