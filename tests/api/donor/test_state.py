"""What an agent keeps: in whose reach, and over which accidents."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from idlegrid.api.donor.state import Home, Kept, write_private
from idlegrid.api.ports import CannotStart
from idlegrid.pipelines.dispatch.spool import HOME, default_folder

KEPT = Kept(
    pull=True,
    scheduler_address="tcp://127.0.0.1:8786",
    paused=True,
    paused_until=datetime(2026, 5, 1, 12, tzinfo=UTC),
    config_version=3,
    remote={"max_concurrent_jobs": 2},
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_folder_holds_everything_that_is_named_one(tmp_path, monkeypatch):
    home = Home.find(tmp_path)
    assert all(path.is_relative_to(tmp_path) for path in home.files)
    assert Home.find(None, {HOME: str(tmp_path)}) == home
    monkeypatch.setenv(HOME, str(tmp_path))
    assert default_folder("w/1").is_relative_to(tmp_path)


def test_the_user_s_own_folders_are_the_usual_place(tmp_path, monkeypatch):
    for name in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    home = Home.find(None, {})
    assert home.config == tmp_path / "CONFIG/idlegrid/config.yaml"
    assert home.credentials == tmp_path / "STATE/idlegrid/agent/credentials.json"


def test_nobody_else_reads_them(tmp_path):
    home = Home.find(tmp_path / "home")
    home.make()
    assert {mode(path.parent) for path in home.files} == {0o700}
    KEPT.save(home.state)
    assert mode(home.state) == 0o600


def test_the_path_of_a_socket_is_never_too_long(tmp_path):
    home = Home.find(tmp_path / ("long" * 30))
    assert len(os.fsencode(home.control_socket)) < 104
    home.make()
    assert home == Home.find(tmp_path / ("long" * 30)), "found again by who asks later"
    home.control_socket.parent.rmdir()


def test_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    home = Home.find(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(CannotStart, match="belongs to another user"):
        home.make()


def test_one_agent_at_a_time(tmp_path):
    home = Home.find(tmp_path)
    with home.held(), pytest.raises(CannotStart, match=rf"runs here already \(process {os.getpid()}\)"), home.held():
        pass
    with home.held():
        pass


def test_what_is_kept_comes_back(tmp_path):
    path = tmp_path / "state.json"
    assert Kept.load(path) == Kept()
    KEPT.save(path)
    assert Kept.load(path) == KEPT


@pytest.mark.parametrize("text", ["", "{", "[]", '{"paused_until": "soon"}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path, text):
    path = tmp_path / "state.json"
    path.write_text(text)
    assert Kept.load(path) == Kept()


def test_what_a_later_version_kept_is_left_out(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"pull": True, "of_tomorrow": 1}))
    assert Kept.load(path) == Kept(pull=True)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_private(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
