"""What holds for every test: one thread per library, and no setting of the machine it runs on."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests

from language_model import LanguageModel, build
from postgres import _postgres_template, empty_postgres_url, postgres_server, postgres_url  # noqa: F401 - fixtures
from tiny_diffusion import tiny_flux, tiny_sd  # noqa: F401 - a fixture
from tiny_llava import tiny_llava  # noqa: F401 - a fixture
from tiny_whisper import tiny_whisper  # noqa: F401 - a fixture

# before torch or OpenVINO is imported: several test processes share few cores
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
for variable in [name for name in os.environ if name.startswith(("IDLEGRID_", "GPU_"))]:
    del os.environ[variable]
# other examples in each run: few a run find as much in the end, and the machine may be busy
settings.register_profile("idlegrid", max_examples=50, deadline=None)
settings.load_profile("idlegrid")


WHOLLY_SLOW = re.compile(r"^pytestmark = (\[.*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For the fast tests alone no file is imported that has none of them: a fifth of the time that collecting takes."""
    if config.option.markexpr != "not slow" or not collection_path.name.startswith("test_"):
        return None
    return True if collection_path.is_file() and WHOLLY_SLOW.search(collection_path.read_text()) else None


def pytest_collection(session: pytest.Session) -> None:
    """Nothing that an import makes is garbage: looking for it is a tenth of the time that collecting takes."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded is looked at no more, and no logger keeps to itself what it is told.

    PyTorch has forty loggers that do: pytest gives each of them its handlers and takes them away, six times a test.
    """
    gc.freeze()
    gc.enable()
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A `.env` or `config.yaml` of whoever runs the tests must not matter: they run in an empty folder."""
    os.chdir(tmp_path_factory.mktemp("empty"))
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))  # the models' lock
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))  # the embedded store, the secret, outboxes


@pytest.fixture(autouse=True, scope="session")
def _any_free_port_is_one_of_ipv4() -> Iterator[None]:
    """Dask takes a free port for IPv4, then the same for IPv6; where somebody has that one, it tries another.

    Tornado leaves the first open: one cluster of some thousands told of a socket that nobody closed.
    """
    from tornado import netutil, tcpserver

    bind = netutil.bind_sockets

    def bind_one(port: int, address: str | None = None, *more: Any, **options: Any) -> list[socket.socket]:
        if not port and not address and not more:
            options["family"] = socket.AF_INET
        return bind(port, address, *more, **options)

    with mock.patch.object(netutil, "bind_sockets", bind_one), mock.patch.object(tcpserver, "bind_sockets", bind_one):
        yield


@pytest.fixture(autouse=True, scope="module")
def _what_a_module_leaves_is_told_there() -> Iterator[None]:
    """Garbage is collected at a module's end: what it left open is told as its own, not as some later test's.

    What lives on is frozen, so that neither this nor Python's own collections look at it again (0.4 s each time).
    """
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _the_same_gpus_afterwards() -> Iterator[None]:
    """An agent chooses its GPU for its whole process: the next test's workers would all be that GPU's one donor."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    if before is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = before


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with our schema: copied, it is there sooner than made anew."""
    from idlegrid.grid.store import open_store

    path = tmp_path_factory.mktemp("empty") / "grid.db"
    with open_store(f"sqlite:///{path}") as store:
        store.upgrade()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, _empty_database: Path) -> str:
    """The URL of a fresh SQLite database with our schema, `grid.db` in the test's own folder."""
    shutil.copy(_empty_database, tmp_path / "grid.db")
    return f"sqlite:///{tmp_path / 'grid.db'}"


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny model with random weights, a tokenizer and a chat template."""
    return build(tmp_path_factory.mktemp("language-model"))
