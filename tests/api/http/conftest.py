from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests

from hash_embedder import HashEmbedder
from jobs_service import SECRET, Service
from script_engine import ScriptEngine
from shared_adapters import shared_adapters  # noqa: F401 - a fixture

from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings
from idlegrid.grid.store import Store, open_store


@pytest.fixture
def embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate({"api": {"max_body_mb": 0.01, "max_inputs": 100, "request_timeout": 5}})


@pytest.fixture
async def client(embedder: HashEmbedder, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(embedder, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def engine() -> ScriptEngine:
    return ScriptEngine()


@pytest.fixture
async def llm(engine: ScriptEngine, embedder: HashEmbedder, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with doors for language models."""
    app = create_app(embedder, settings, EngineBackend(engine, aliases=("script",)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    """A real store of its own, in a file."""
    with open_store(sqlite_url, secret=lambda: SECRET) as store:
        yield store


@pytest.fixture
def service(store: Store) -> Service:
    return Service(store)


@pytest.fixture
async def jobs(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service without keys."""
    async with service.client() as client:
        yield client
