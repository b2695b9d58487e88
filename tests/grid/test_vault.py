"""Seals open with the same secret at the same place, and nowhere else."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest

from idlegrid.grid.vault import Tampered, Vault

VAULT = Vault(lambda: b"s" * 32)


def test_it_opens_what_it_sealed():
    sealed = VAULT.seal(b"a signing secret", "signing 1")
    assert VAULT.open(sealed, "signing 1") == b"a signing secret"
    assert Vault(lambda: b"s" * 32).open(sealed, "signing 1") == b"a signing secret"
    assert b"secret" not in b64decode(sealed)
    assert VAULT.seal(b"a signing secret", "signing 1") != sealed


def test_it_opens_nothing_else():
    sealed = VAULT.seal(b"a signing secret", "signing 1")
    raw = b64decode(sealed)
    changed = [b64encode(raw[:n] + bytes([raw[n] ^ 1]) + raw[n + 1 :]).decode() for n in range(len(raw))]
    for wrong in (*changed, "", "é", "x", sealed[:-4]):
        with pytest.raises(Tampered):
            VAULT.open(wrong, "signing 1")
    with pytest.raises(Tampered, match="another secret"):
        VAULT.open(sealed, "signing 2")
    with pytest.raises(Tampered):
        Vault(lambda: b"t" * 32).open(sealed, "signing 1")


def test_digests_are_of_one_secret():
    digest = VAULT.digest("token")
    assert VAULT.fits("token", digest)
    assert not VAULT.fits("token2", digest)
    assert not Vault(lambda: b"t" * 32).fits("token", digest)


def test_the_secret_is_asked_for_when_it_is_needed():
    def none() -> bytes:
        raise ValueError("no secret")

    vault = Vault(none)
    with pytest.raises(ValueError, match="no secret"):
        vault.digest("token")
