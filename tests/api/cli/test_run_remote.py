"""`idlegrid run` with a model that a grid serves: over HTTP, and without a prompt going elsewhere by itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "http"))  # their helpers: a real service, an engine without a model
sys.path.insert(0, str(Path(__file__).parents[1] / "client"))

from hash_embedder import HashEmbedder
from jobs_service import with_settings
from live_service import serving
from script_engine import TEXT, ScriptEngine

from idlegrid.api.cli.run_remote import on_this_machine
from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend

ASK = ("--max-tokens", "80", "--seed", "1")


class Chat:
    """A service that serves one model."""

    def __init__(self) -> None:
        self.engine = ScriptEngine()

    def app(self):
        return create_app(HashEmbedder(), with_settings(), EngineBackend(self.engine, aliases=("script",)))


@pytest.fixture
def chat():
    return Chat()


@pytest.fixture
def url(chat):
    with serving(chat) as url:
        yield url


def test_an_answer_and_the_same_as_json(idlegrid, url):
    done = idlegrid("run", "script", "Hello", *ASK, "--url", url)
    assert (done.code, done.out) == (0, f"{TEXT}\n"), done.err
    told = idlegrid("run", "script", "Hello", *ASK, "--url", url, "--json").json
    assert (told["response"], told["finish_reason"]) == (TEXT, "stop")
    assert told["usage"]["completion_tokens"] >= len(TEXT.encode())


def test_the_grid_of_this_machine_is_asked_if_it_serves_the_model(idlegrid, url, chat, monkeypatch):
    monkeypatch.setenv("IDLEGRID_API_PORT", url.rpartition(":")[2])
    done = idlegrid("run", "script", "Hello", *ASK)
    assert (done.code, done.out) == (0, f"{TEXT}\n")
    assert f"script is served by {url}" in done.err
    asked = len(chat.engine.requests)
    for words in (("/no/such/folder",), ("script", "--here"), ("script", "--dtype", "float32")):
        assert idlegrid("run", *words, "Hello", *ASK).code == 1, "it would be loaded here, and is not there"
    assert len(chat.engine.requests) == asked


@pytest.mark.parametrize(
    ("base", "here"),
    [
        ("http://localhost:8000", True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("https://grid.example", False),
        ("http://127.0.0.1.example:8000", False),
        ("http://localhost.example", False),
    ],
)
def test_a_prompt_goes_by_itself_to_this_machine_only(base, here):
    assert on_this_machine(base) is here


def test_refusals_and_failures(idlegrid, url, chat):
    unknown = idlegrid("run", "scribt", "Hello", *ASK, "--url", url)
    assert unknown.code == 1
    assert "Did you mean 'script'?" in unknown.err
    assert "want" in idlegrid("run", "script", "refuse", *ASK, "--url", url).err
    chat.engine.fail_after = 3
    broken = idlegrid("run", "script", "Hello", *ASK, "--url", url)
    assert (broken.code, broken.out) == (1, f"{TEXT[:2]}\n")
    assert broken.err.startswith("error: ")


def test_a_model_that_is_not_ready_is_waited_for(idlegrid, url, chat, monkeypatch):
    monkeypatch.setattr("idlegrid.api.cli.run_remote.PATIENCE", 0.0)
    chat.engine.closed = True
    done = idlegrid("run", "script", "Hello", *ASK, "--url", url)
    assert done.code == 1
    assert "closing" in done.err


def test_nobody_there(idlegrid):
    done = idlegrid("run", "script", "Hello", *ASK, "--url", "http://127.0.0.1:1")
    assert done.code == 1
    assert "error: http://127.0.0.1:1 can't be used" in done.err
