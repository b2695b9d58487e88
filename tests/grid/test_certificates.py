"""What the CA writes, and what is read from it."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from idlegrid.grid.certificates import LIFE, Authority, BadCertificate, certified
from idlegrid.grid.peers import Peer, Role

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CA = Authority.make(NOW)


@pytest.mark.parametrize("role", Role)
def test_a_certificate_says_who_holds_it_and_for_how_long(role):
    issued = CA.issue(role, "w-1", NOW)
    said = certified(issued.certificate)
    assert said.peer == Peer(role, "w-1")
    assert said.begins_at < NOW < said.expires_at == issued.expires_at == NOW + LIFE[role]
    assert said.renew_at == said.expires_at - (said.expires_at - said.begins_at) / 3
    assert not said.due(said.renew_at - timedelta(seconds=1))
    assert said.due(said.renew_at)


def test_the_bundle_is_read_as_the_certificate_is():
    issued = CA.issue(Role.WORKER, "w-1", NOW)
    assert certified(issued.bundle) == certified(issued.certificate)
    assert "PRIVATE KEY" in issued.bundle
    assert "PRIVATE KEY" not in issued.authority


@pytest.mark.parametrize(("role", "serves"), [("scheduler", True), ("worker", True), ("client", False), ("api", False)])
def test_who_only_connects_can_not_be_taken_for_a_server(role, serves):
    leaf = x509.load_pem_x509_certificate(CA.issue(Role(role), "x", NOW).certificate.encode())
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (ExtendedKeyUsageOID.SERVER_AUTH in uses) is serves
    assert ExtendedKeyUsageOID.CLIENT_AUTH in uses


def test_a_strict_verifier_takes_the_chain_and_another_grid_s_ca_does_not():
    leaf = x509.load_pem_x509_certificate(CA.issue(Role.WORKER, "w-1", NOW).certificate.encode())

    def verify(authority):
        root = x509.load_pem_x509_certificate(authority.pem.encode())
        PolicyBuilder().store(Store([root])).time(NOW).build_client_verifier().verify(leaf, [])

    verify(CA)
    with pytest.raises(VerificationError):
        verify(Authority.make(NOW))


def test_the_ca_is_written_and_read_again():
    again = Authority.from_pem(CA.to_pem())
    assert again.pem == CA.pem
    assert certified(again.issue(Role.CLIENT, "me", NOW).certificate).peer == Peer(Role.CLIENT, "me")


def test_a_ca_with_another_s_key_is_refused():
    key = Authority.make(NOW).to_pem().partition("-----BEGIN CERTIFICATE")[0]
    with pytest.raises(BadCertificate, match="don't belong together"):
        Authority.from_pem(key + CA.pem)


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_told(text):
    with pytest.raises(BadCertificate):
        certified(text)
    with pytest.raises(BadCertificate):
        Authority.from_pem(text)


def test_a_certificate_without_a_role_is_not_the_grid_s():
    with pytest.raises(BadCertificate, match="not made by a grid"):
        certified(CA.pem)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 65, "a b", "a\nb", "-a", "é"])
def test_names_that_can_not_stand_in_a_certificate(name):
    with pytest.raises(ValueError, match="can't stand"):
        CA.issue(Role.WORKER, name, NOW)


def test_no_certificate_outlives_the_ca():
    late = NOW + timedelta(days=3649)
    assert CA.issue(Role.CLIENT, "me", late).expires_at == NOW + timedelta(days=3650)
