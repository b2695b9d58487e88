"""Who a certificate makes somebody."""

import pytest

from idlegrid.grid.peers import Peer, Role, peer_of


def cert(*parts):
    return {"subject": tuple(((key, value),) for key, value in parts)}


OU, CN = "organizationalUnitName", "commonName"


def test_role_and_name():
    assert peer_of(cert((OU, "worker"), (CN, "w-1"))) == Peer(Role.WORKER, "w-1")


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        {},
        cert((CN, "w-1")),
        cert((OU, "worker")),
        cert((OU, "worker"), (CN, "")),
        cert((OU, "Worker"), (CN, "w-1")),
        cert((OU, "root"), (CN, "w-1")),
        cert((OU, "worker"), (OU, "client"), (CN, "w-1")),
        cert((OU, "worker"), (CN, "w-1"), (CN, "w-2")),
    ],
)
def test_whoever_is_not_clearly_somebody_is_nobody(certificate):
    assert peer_of(certificate) is None


def test_two_roles_in_one_part_are_none():
    assert peer_of({"subject": (((OU, "client"), (OU, "worker")), ((CN, "w"),))}) is None


@pytest.mark.parametrize(("donor", "owned"), [("w", True), ("w/0", True), ("w2", False), ("", False), ("v/w", False)])
def test_a_worker_speaks_for_itself_alone(donor, owned):
    assert Peer(Role.WORKER, "w").owns(donor) is owned
