"""What an agent leaves behind is found and removed, to the last file; what is not its own stays."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from idlegrid.actors.digests import remembered_in
from idlegrid.api.donor.installing import Written, write_unit
from idlegrid.api.donor.leaving import STAMP, WRAPPED, WRAPPER, leftovers, remove, remove_empty
from idlegrid.api.donor.state import Home
from idlegrid.grid.credentials import Credentials
from idlegrid.pipelines.dispatch.spool import HOME, default_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Of digests: not that of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def lived_in(home):
    """Write what an agent writes over its life."""
    home.make()
    held = Credentials(
        worker_id="w/1",
        server="https://grid.example",
        token="t",
        refresh_token="r",
        signing_secret="s",
        token_expires_at=datetime.now(UTC) + timedelta(days=1),
    )
    held.save(home.credentials)
    for path in home.files:
        if path != home.credentials:
            path.write_text(f"{path.name}\n")
    home.credentials.with_name("spent-tickets").write_text("x")
    home.log.with_name(f"{home.log.name}.1").write_text("older lines")
    home.config.with_name(f".{home.config.name}.draft").write_text("half")
    remembered_in().parent.mkdir(parents=True, exist_ok=True)
    remembered_in().write_text("{}")
    spool = default_folder("w/1")
    spool.mkdir(parents=True)
    (spool / "a.letter").write_bytes(b"x" * 1000)


def everything(folder):
    return {path for path in folder.rglob("*") if not path.is_dir()}


def clean(home, environ, **options):
    made = Written.load(home).folders
    failed = [(one.path, why) for one, why in remove(leftovers(home, environ, **options)) if why]
    remove_empty(home, environ, made)
    return failed


def test_nothing_of_it_stays_in_the_users_folders(place, tmp_path):
    write_unit(place, {})
    lived_in(place)
    found = leftovers(place, {})
    assert {one.path for one in found if one.path.is_file()} | everything(default_folder("w/1")) == everything(tmp_path)
    assert next(one for one in found if one.what == "spool").size == 1000
    assert found[0].what == "credentials"  # the secrets first
    assert clean(place, {}) == []
    assert everything(tmp_path) == set()
    assert not list(tmp_path.rglob("idlegrid"))
    assert leftovers(place, {}) == []


def test_nothing_of_it_stays_in_a_folder_of_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "agent"
    monkeypatch.setenv(HOME, str(folder))
    home = Home.find()
    lived_in(home)
    assert clean(home, os.environ) == []
    assert not folder.exists()


def test_what_is_not_its_own_stays(place, tmp_path, monkeypatch):
    """Its owner's other files, another worker's spool, and the store of a grid that runs on the same machine."""
    lived_in(place)
    others = [
        default_folder("another").parent / "another" / "b.letter",
        default_folder("another").parent.parent / "idlegrid.db",
        place.config.with_name("notes.txt"),
        place.state.with_name("mine.json"),
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    assert clean(place, {}) == []
    assert everything(tmp_path) == set(others)


def test_a_home_among_its_owners_files_costs_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME, str(tmp_path))
    others = [tmp_path / "data" / "thesis.txt", tmp_path / "state" / "of-the-art.pdf", tmp_path / "run" / "me.sh"]
    for path in others:
        path.parent.mkdir()
        path.write_text("precious")
    lived_in(Home.find())
    assert clean(Home.find(), os.environ) == []
    assert everything(tmp_path) == set(others)


def test_a_link_is_removed_and_not_what_it_leads_to(place, tmp_path):
    lived_in(place)
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "precious").write_text("x")
    place.log.unlink()
    place.log.symlink_to(target)
    assert clean(place, {}) == []
    assert not place.log.is_symlink()
    assert (target / "precious").exists()


def test_models_stay_unless_they_are_asked_for(place, tmp_path):
    hub = tmp_path / "models" / "hub"
    ours, theirs = hub / "models--sentence-transformers--all-MiniLM-L6-v2", hub / "models--somebody--else"
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 500)
    environ = {"HF_HOME": str(tmp_path / "models")}
    assert leftovers(place, environ) == []
    [found] = leftovers(place, environ, models=True)
    assert (found.path, found.size) == (ours, 500)
    assert clean(place, environ, models=True) == []
    assert not ours.exists()
    assert theirs.exists()


def test_only_a_folder_that_the_wrapper_stamped_is_its_environment(place, tmp_path):
    folder = tmp_path / "gpu-worker" / "npx"
    folder.mkdir(parents=True)
    (folder / "precious").write_text("x")
    environ = {WRAPPER: str(folder)}
    assert leftovers(place, environ) == []
    (folder / STAMP).write_text(json.dumps({"made_by": "npx gpu-worker"}))
    assert [one.what for one in leftovers(place, environ)] == [WRAPPED]
    assert clean(place, environ) == []
    assert not folder.parent.exists()


def test_what_can_not_be_removed_is_told(place, monkeypatch):
    lived_in(place)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    failed = {one.path: why for one, why in remove(leftovers(place, {}))}
    assert failed[place.credentials] == "Permission denied"
