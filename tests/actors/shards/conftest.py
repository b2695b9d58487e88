"""Fixtures of this folder: what carries a link, and a peer that says what it likes."""

import importlib.util
import shutil
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_models import make_model  # noqa: F401 - a fixture

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests


@dataclass(frozen=True)
class Carrier:
    """A transport of `distributed`'s addresses."""

    address: str
    listener: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """TLS contexts as Dask's `Security` makes them, of one self-signed certificate: listener's, client's."""
    from distributed.security import Security

    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with openssl")
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=idlegrid test", "-days", "2", "-keyout", key, "-out", cert]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run(made, check=True, capture_output=True)
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
