"""A worker's credentials on disk, and requests that are signed with them."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from idlegrid.grid.credentials import VARIABLE, BadCredentials, Credentials, Signer
from idlegrid.grid.signing import check, read_signature

NOW = 1_800_000_000.0
HELD = Credentials(
    worker_id="w-1",
    server="http://grid.example:8000",
    token="token-one",
    refresh_token="refresh",
    signing_secret="5" * 64,
    token_expires_at=datetime(2027, 1, 1, tzinfo=UTC),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    HELD.save(tmp_path / "agent" / "credentials.json")
    return tmp_path / "agent" / "credentials.json"


def test_what_is_saved_is_loaded_and_is_its_owners_alone(path: Path):
    assert Credentials.load(path) == HELD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_it_does_not_show_what_it_holds():
    assert not any(secret in repr(HELD) for secret in (HELD.token, HELD.refresh_token, HELD.signing_secret))


def test_files_that_are_refused(path: Path):
    path.chmod(0o644)
    with pytest.raises(BadCredentials, match="chmod 600"):
        Credentials.load(path)
    path.chmod(0o600)
    for text in ("", "[]", "{}", '{"worker_id": "w"}', '{"token_expires_at": "x"}'):
        path.write_text(text)
        with pytest.raises(BadCredentials, match="join the grid again"):
            Credentials.load(path)
    with pytest.raises(FileNotFoundError):
        Credentials.load(path.with_name("other"))


def test_who_reads_while_it_is_written_reads_the_old_or_the_new(path: Path):
    ended, found = threading.Event(), set()

    def read() -> None:
        while not ended.is_set():
            found.add(Credentials.load(path).token)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        replace(HELD, token=f"token-{number:03}").save(path)
    ended.set()
    reader.join()
    assert all(len(token) == len("token-000") for token in found)


def assert_signed(request: httpx.Request, token: str = HELD.token) -> None:
    """As a server would look at it: at the bytes that go over the wire."""
    signature = read_signature((name.lower(), value) for name, value in request.headers.raw)
    assert signature is not None
    path, _, query = request.url.raw_path.partition(b"?")
    place = {"key_id": "w-1", "method": request.method, "host": request.headers["host"]}
    body_hash = sha256(request.content).hexdigest()
    check(HELD.key, signature, **place, raw_path=path, raw_query=query, body_hash=body_hash, now=NOW)
    assert request.headers["x-worker-token"] == token


def test_it_signs_what_httpx_sends_and_takes_new_tokens_from_the_file(path: Path):
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    signer = Signer(path, clock=lambda: NOW)
    with httpx.Client(transport=httpx.MockTransport(answer), auth=signer) as client:
        client.post("http://Grid.example:80/api/v1/a%2Fb/é", json={"a": "é"}, headers={"X-Worker-Token": "other"})
        client.get("http://[::1]:8000/x", params={"types": "a,b", "wait": "2"})
        replace(HELD, token="token-two").save(path)
        client.get("http://grid.example/x")
    for request, token in zip(sent, (HELD.token, HELD.token, "token-two"), strict=True):
        assert_signed(request, token)
    assert len({request.headers["x-nonce"] for request in sent}) == 3


@pytest.mark.parametrize("url", ["https://grid.example:443/a?b=c%20d", "http://GRID.example:8000/é", "http://[::1]:9/"])
def test_headers_are_those_of_the_request_that_httpx_makes_of_it(path: Path, url: str):
    signer = Signer(path, clock=lambda: NOW)
    assert_signed(httpx.Request("PUT", url, content=b"x", headers=signer.headers("PUT", url, b"x")))


def test_from_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Signer.from_environment() is None
    monkeypatch.setenv(VARIABLE, os.fspath(path))
    signer = Signer.from_environment()
    assert signer is not None
    assert signer.credentials == HELD
