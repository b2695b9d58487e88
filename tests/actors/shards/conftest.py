"""Fixtures of this folder: what carries a link, and a peer that says what it likes."""

import importlib.util
import ssl
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tiny_models import make_model  # noqa: F401 - a fixture

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests


@dataclass(frozen=True)
class Carrier:
    """A transport of `distributed`'s addresses."""

    address: str
    listener: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


def write_certificate(folder):
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
def certificate(tmp_path_factory):
    """TLS contexts as Dask's `Security` makes them, of one self-signed certificate: listener's, client's."""
    from distributed.security import Security

    cert, key = write_certificate(tmp_path_factory.mktemp("certificate"))
    roles = {f"tls_worker_{part}": str(path) for part, path in (("cert", cert), ("key", key))}
    security = Security(tls_ca_file=str(cert), require_encryption=True, **roles)
    contexts = (security.get_listen_args("worker"), security.get_connection_args("worker"))
    return tuple(each["ssl_context"] for each in contexts)


UCX = importlib.util.find_spec("distributed_ucxx") is not None
"""Optional: `pip install distributed-ucxx-cu13` (hundreds of megabytes; shared memory does without a GPU)."""


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("tls", *(["ucx"] if UCX else []))]


@pytest.fixture(params=["inproc", "tcp", *SLOW])
def carrier(request):
    """Each transport that a link may have."""
    if request.param == "inproc":
        return Carrier("inproc://")
    if request.param == "tls":
        return Carrier("tls://127.0.0.1:0", *request.getfixturevalue("certificate"))
    return Carrier(f"{request.param}://127.0.0.1:0")


@pytest.fixture(scope="session")
def tokenizer():
    from engine_scenario import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture(scope="session")
def model(make_model):  # noqa: F811
    return make_model("llama")


@pytest.fixture(scope="session")
def right(model, tokenizer):
    """Tokens by request of an undisturbed run of `engine_scenario.asked()`."""
    from engine_scenario import undisturbed

    return undisturbed(model, tokenizer)
