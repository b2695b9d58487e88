"""A worker's certificate: in the answer to its registration, anew with its tokens, and nowhere else."""

from __future__ import annotations

import ssl

import pytest
from donors_service import FACTS, HERE, join
from jobs_service import Service, with_settings

from idlegrid.api.http.worker_tls import Certifier
from idlegrid.grid.certificates import certified
from idlegrid.grid.peers import Peer, Role

TLS = "tls://192.0.2.9:8786"


def settings_of(folder, *, tls=True):
    return with_settings(scheduler={"tls": tls, "tls_folder": folder})


@pytest.mark.slow
async def test_it_comes_with_the_registration_and_with_every_renewal(service: Service, tmp_path):
    folder = tmp_path / "tls"
    grid = Service(service.store, settings_of(folder), scheduler=TLS)
    async with grid.client() as client:
        headers = {"X-Enrolment-Token": grid.store.enrolments.create(3600, None, HERE)[1]}
        made = (await client.post("/api/v1/workers/register", json=FACTS, headers=headers)).json()
        first = certified(made["tls"]["certificate"])
        assert first.peer == Peer(Role.WORKER, made["worker_id"])
        donor = await join(client, grid.store, tmp_path)
        renewed = (await donor.refresh()).json()["tls"]
        assert certified(renewed["certificate"]).peer == Peer(Role.WORKER, donor.id)
        _loads(tmp_path / "renewed.pem", renewed)
        assert renewed["key"] != made["tls"]["key"]
        assert [path.name for path in folder.iterdir()] == ["ca.key"], "no key of a donor is kept"


def _loads(file, told):
    file.write_text(told["key"] + told["certificate"])
    context = ssl.create_default_context(cadata=told["authority"])
    context.load_cert_chain(file)


@pytest.mark.parametrize(
    ("tls", "scheduler"), [(False, TLS), (True, "tcp://192.0.2.9:8786"), (True, None)], ids=["off", "tcp", "none"]
)
def test_a_grid_without_tls_gives_none_and_makes_no_ca(tmp_path, tls, scheduler):
    assert Certifier(settings_of(tmp_path / "tls", tls=tls), scheduler)("w-1") is None
    assert not (tmp_path / "tls").exists()


def test_where_the_ca_is_elsewhere_the_log_says_so(tmp_path, caplog, capsys):
    (tmp_path / "ca.pem").write_text("another machine's")
    assert Certifier(settings_of(tmp_path), TLS)("w-1") is None
    assert "holds no CA" in caplog.text + capsys.readouterr().out
    assert not (tmp_path / "ca.key").exists()


def test_a_name_that_can_not_stand_in_a_certificate_gets_none(tmp_path):
    assert Certifier(settings_of(tmp_path), TLS)("w/1") is None
