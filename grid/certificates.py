"""The grid's own small CA, and the certificates that it writes: one for each part of a grid, with its role in it.

Pure: instants are arguments, keys and certificates come and go as PEM text. `certificate_files` keeps them on disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .peers import Peer, Role, peer_of

LIFE: Mapping[Role, timedelta] = MappingProxyType(
    {
        Role.SCHEDULER: timedelta(days=90),
        Role.API: timedelta(days=90),
        Role.CLIENT: timedelta(days=90),
        Role.WORKER: timedelta(days=7),
    }
)
"""For how long a certificate is good. A donor's is short: a machine that is blocked gets no new one."""
AUTHORITY_LIFE = timedelta(days=3650)
BACKDATED = timedelta(minutes=5)
"""A certificate begins so much earlier than it was made, for peers whose clock is behind."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")


class BadCertificate(Exception):
    """A certificate or a key can't be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, as whoever it was made for gets it."""

    certificate: str
    """PEM."""
    key: str
    """PEM (PKCS 8), not encrypted: the CA keeps no copy."""
    authority: str
    """PEM of the CA's certificate, by which its holder checks others."""
    expires_at: datetime
    """Aware, UTC."""

    @property
    def bundle(self) -> str:
        """Key and certificate in one text, so that one file holds both and they are replaced together."""
        return self.key + self.certificate


@dataclass(frozen=True, slots=True)
class Certified:
    """What a certificate says."""

    peer: Peer
    begins_at: datetime
    expires_at: datetime

    @property
    def renew_at(self) -> datetime:
        """When a new one is due: with a third of its life left."""
        return self.expires_at - (self.expires_at - self.begins_at) / 3

    def due(self, now: datetime) -> bool:
        """Whether a new one is due."""
        return now >= self.renew_at


def certified(pem: str) -> Certified:
    """What the first certificate in the text says. Raises BadCertificate."""
    try:
        found = x509.load_pem_x509_certificate(_first_certificate(pem))
    except ValueError as error:
        raise BadCertificate(f"this is no certificate: {error}") from None
    keys = {NameOID.ORGANIZATIONAL_UNIT_NAME: "organizationalUnitName", NameOID.COMMON_NAME: "commonName"}
    subject = tuple(((keys.get(part.oid, part.oid.dotted_string), str(part.value)),) for part in found.subject)
    if (peer := peer_of({"subject": subject})) is None:
        raise BadCertificate(f"this certificate was not made by a grid: {found.subject.rfc4514_string()}")
    return Certified(peer, found.not_valid_before_utc, found.not_valid_after_utc)


def _first_certificate(pem: str) -> bytes:
    begin = pem.find("-----BEGIN CERTIFICATE-----")
    if begin < 0:
        raise ValueError("there is none in it")
    return pem[begin:].encode()


class Authority:
    """The CA of one grid."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate, self._key = certificate, key

    @classmethod
    def make(cls, now: datetime) -> Self:
        """A new one, good for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"idlegrid {x509.random_serial_number():x}"[:24])])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        made = (
            _builder(name, name, key.public_key(), key.public_key(), now, now + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(made, key)

    @classmethod
    def from_pem(cls, pem: str) -> Self:
        """The inverse of `to_pem`. Raises BadCertificate."""
        try:
            key = serialization.load_pem_private_key(pem.encode(), password=None)
            certificate = x509.load_pem_x509_certificate(_first_certificate(pem))
        except (ValueError, TypeError) as error:
            raise BadCertificate(f"this holds no CA: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise BadCertificate("the CA's key and its certificate don't belong together")
        return cls(certificate, key)

    def to_pem(self) -> str:
        """Key and certificate: whoever reads it can be anybody in this grid."""
        return _key_pem(self._key) + self.pem

    @property
    def pem(self) -> str:
        """The certificate alone, which is no secret."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, role: Role, name: str, now: datetime, life: timedelta | None = None) -> Issued:
        """A certificate for `name`, good for `life` (None: as long as its role's is), never longer than the CA's own.

        Raises ValueError for a name that can't stand in one.
        """
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f"{name!r} can't stand in a certificate: a letter or digit, then at most 63 of those and . _ : @ -"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        expires = min(now + (life or LIFE[role]), self._certificate.not_valid_after_utc)
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if role.listens else [])]
        made = (
            _builder(subject, self._certificate.subject, key.public_key(), self._key.public_key(), now, expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{role.value}.idlegrid")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = made.public_bytes(serialization.Encoding.PEM).decode()
        return Issued(pem, _key_pem(key), self.pem, made.not_valid_after_utc)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuers_key: ec.EllipticCurvePublicKey,
    begins: datetime,
    expires: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before((begins - BACKDATED).astimezone(UTC))
        .not_valid_after(expires.astimezone(UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key), critical=False)
    )


def _usage(**used: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
