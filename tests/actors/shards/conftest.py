"""Fixtures of this folder: what carries a link, and a peer that says what it likes."""

import importlib.util
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from self_signed import certificate  # noqa: F401 - a fixture
from tiny_models import make_model  # noqa: F401 - a fixture

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests


@dataclass(frozen=True)
class Carrier:
    """A transport of `distributed`'s addresses."""

    address: str
    listener: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


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
