from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests

from hash_embedder import HashEmbedder
from script_engine import ScriptEngine

from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings


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
