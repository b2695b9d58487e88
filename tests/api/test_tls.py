"""Which certificate a process shows on the Dask network, by the settings and the address."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import dask
import pytest
from distributed.client import _maybe_call_security_loader

from idlegrid.api import tls
from idlegrid.grid.certificate_files import NoCertificate, open_authority
from idlegrid.grid.config import Settings
from idlegrid.grid.peers import Peer, Role

ADDRESS = "tls://192.0.2.9:8786"


def with_tls(folder, *, on=True):
    return Settings.model_validate({"scheduler": {"tls": on, "tls_folder": folder}})


@pytest.fixture(autouse=True)
def _as_found(monkeypatch):
    """Another test's process speaks as nobody."""
    monkeypatch.setattr(tls, "_speaker", (Role.CLIENT, None))
    with dask.config.set({"distributed.client.security-loader": None}):
        yield


def test_the_folder_is_beside_the_secret_unless_it_is_named(tmp_path):
    beside = Settings.model_validate({"database": {"secret_file": tmp_path / "secret"}})
    assert tls.folder_of(beside) == tmp_path / "tls"
    assert tls.folder_of(with_tls(tmp_path / "x")) == tmp_path / "x"
    assert tls.folder_of(Settings()).name == "tls"


@pytest.mark.parametrize("role", [Role.SCHEDULER, Role.API])
def test_a_part_of_the_grid_makes_its_certificate_and_the_ca(tmp_path, role):
    security = tls.security_for(ADDRESS, role, with_tls(tmp_path))
    assert security.paper.read().peer == Peer(role, role.value)
    assert (security.role, security.scheduler) == (role, ADDRESS)
    assert (tmp_path / "ca.key").exists()


def test_whoever_looks_for_a_grid_makes_no_ca(tmp_path):
    for on in (True, False):
        with pytest.raises(NoCertificate, match=r"client\.pem is missing"):
            tls.security_for(ADDRESS, Role.CLIENT, with_tls(tmp_path / "none", on=on))
    assert not (tmp_path / "none").exists()


def test_on_the_grid_s_own_machine_a_client_finds_one(tmp_path):
    open_authority(tmp_path, datetime.now(UTC))
    security = tls.security_for(ADDRESS, Role.CLIENT, with_tls(tmp_path, on=False))
    assert security.paper.read().peer == Peer(Role.CLIENT, "client")


def test_without_tls_there_is_none(tmp_path):
    assert tls.security_for("tcp://192.0.2.9:8786", Role.CLIENT, with_tls(tmp_path)) is None
    assert tls.worker_paper("tcp://192.0.2.9:8786", with_tls(tmp_path)) is None
    assert tls.via(None) == {}
    assert tls.scheme_of(with_tls(tmp_path, on=False)) == "tcp://"


def test_certificates_of_dask_s_own_settings_stay_in_force(tmp_path):
    with dask.config.set({"distributed.comm.tls.client.cert": "mine.pem"}):
        assert tls.security_for(ADDRESS, Role.CLIENT, with_tls(tmp_path, on=False)) is None
        assert tls.worker_paper(ADDRESS, with_tls(tmp_path, on=False)) is None
        assert tls.security_for(ADDRESS, Role.API, with_tls(tmp_path)) is not None


def test_every_client_of_a_process_shows_the_certificate_of_its_role(tmp_path):
    tls.speak_as(Role.API, with_tls(tmp_path))
    assert _maybe_call_security_loader(ADDRESS).role is Role.API
    assert _maybe_call_security_loader("tcp://192.0.2.9:8786") is None
    assert tls.own_security(ADDRESS).role is Role.API


def test_somebody_else_s_loader_stays():
    with dask.config.set({"distributed.client.security-loader": "theirs.loader"}):
        tls.speak_as(Role.CLIENT)
        assert dask.config.get("distributed.client.security-loader") == "theirs.loader"


async def test_certificates_are_renewed_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "LOOK_EVERY", 0.01)
    settings, old = with_tls(tmp_path), datetime.now(UTC) - timedelta(days=6)
    issued = open_authority(tmp_path, old).issue(Role.WORKER, "local-0", old)
    paper = tls.certificate(settings, Role.WORKER, "local-0")
    paper.save(issued.certificate, issued.key, issued.authority)
    async with tls.kept_fresh(settings, (Role.WORKER, "local-0")), asyncio.timeout(30):
        while paper.read().begins_at < old + timedelta(days=5):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)


async def test_what_can_not_be_renewed_is_told_and_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tls, "LOOK_EVERY", 0.001)
    settings = with_tls(tmp_path)
    (tmp_path / "ca.key").write_text("nonsense")
    (tmp_path / "ca.key").chmod(0o600)
    async with tls.kept_fresh(settings, (Role.API, "api")), asyncio.timeout(30):
        while caplog.text.count("can't be renewed") < 2:  # noqa: ASYNC110 - a log
            await asyncio.sleep(0.001)
