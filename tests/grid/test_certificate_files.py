"""Certificates on disk: made once, renewed in time, readable by their owner only."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from idlegrid.grid.certificate_files import NoCertificate, Paper, open_authority, renew
from idlegrid.grid.peers import Peer, Role
from idlegrid.grid.private_file import make_private, write_private

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def test_all_who_come_at_once_get_the_same_ca(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: open_authority(tmp_path / "tls", NOW).pem, range(16)))
    assert len(found) == 1
    assert [path.name for path in (tmp_path / "tls").iterdir()] == ["ca.key"]


def test_keys_are_for_their_owner_alone(tmp_path):
    paper = renew(tmp_path / "tls", Role.WORKER, "w", NOW)
    for path in (tmp_path / "tls" / "ca.key", paper.file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    paper.file.chmod(0o644)
    with pytest.raises(NoCertificate, match="chmod 600"):
        paper.check()
    (tmp_path / "tls" / "ca.key").chmod(0o640)
    with pytest.raises(NoCertificate, match="chmod 600"):
        open_authority(tmp_path / "tls", NOW)


def test_a_certificate_is_kept_until_a_third_of_its_life_is_left(tmp_path):
    first = renew(tmp_path, Role.WORKER, "w", NOW).file.read_text()
    assert renew(tmp_path, Role.WORKER, "w", NOW + timedelta(days=4)).file.read_text() == first
    later = renew(tmp_path, Role.WORKER, "w", NOW + timedelta(days=5))
    assert later.file.read_text() != first
    assert later.read().expires_at == NOW + timedelta(days=12)


@pytest.mark.parametrize(("role", "name"), [(Role.CLIENT, "w"), (Role.WORKER, "v")])
def test_another_s_certificate_is_replaced(tmp_path, role, name):
    renew(tmp_path, Role.WORKER, "w", NOW, file="one")
    assert renew(tmp_path, role, name, NOW, file="one").read().peer == Peer(role, name)


def test_what_another_machine_made_is_used_as_it_is(tmp_path):
    made = renew(tmp_path / "there", Role.CLIENT, "me", NOW)
    here = tmp_path / "here"
    for name in ("ca.pem", "client.pem"):
        write_private(here / name, (made.file.parent / name).read_bytes())
    assert renew(here, Role.CLIENT, "other", NOW + timedelta(days=80)).read().peer.name == "me"
    assert not (here / "ca.key").exists()


def test_files_that_miss_are_named(tmp_path):
    with pytest.raises(NoCertificate, match=r"worker\.pem is missing.*idlegrid admin certificate"):
        Paper(tmp_path / "worker.pem").check()


def test_a_ca_that_is_damaged_is_not_replaced(tmp_path):
    make_private(tmp_path / "ca.key", b"nonsense")
    with pytest.raises(NoCertificate, match="can't be used"):
        renew(tmp_path, Role.API, "api", NOW)
    assert (tmp_path / "ca.key").read_bytes() == b"nonsense"


def test_a_private_file_is_made_once_and_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    make_private(path, b"one")
    make_private(path, b"two")
    assert path.read_bytes() == b"one"
    write_private(path, b"three")
    assert path.read_bytes() == b"three"
    assert [one.name for one in path.parent.iterdir()] == ["file"]
