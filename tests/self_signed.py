"""One self-signed certificate, as Dask's own connections would use it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key, as files in `folder`."""
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idlegrid test")])
    now, days = datetime.now(UTC), timedelta(days=2)
    made = x509.CertificateBuilder(name, name, secret.public_key(), x509.random_serial_number(), now - days, now + days)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.sign(secret, hashes.SHA256()).public_bytes(Encoding.PEM))
    key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, key


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts as Dask's `Security` makes them, of one self-signed certificate: listener's, client's."""
    from distributed.security import Security

    cert, key = write_certificate(tmp_path_factory.mktemp("certificate"))
    roles = {
        f"tls_{role}_{part}": str(path)
        for role in ("client", "worker")
        for part, path in (("cert", cert), ("key", key))
    }
    security = Security(tls_ca_file=str(cert), require_encryption=True, **roles)
    return security.get_listen_args("worker")["ssl_context"], security.get_connection_args("client")["ssl_context"]
