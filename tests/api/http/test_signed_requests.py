"""Signed requests under attack (A5): changed in any way, or sent twice, they are refused; and clocks (R15)."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
from donors_service import BEAT, Donor, join
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobs_service import Service, with_settings

from idlegrid.api.http.worker_auth import Checkpoint
from idlegrid.grid import signing
from idlegrid.grid.lockout import Lockout
from idlegrid.grid.store import Store

pytestmark = pytest.mark.slow


class Patient(Lockout):
    """Never locks: what is attacked here is the signature itself."""

    def failed(self, claimed: str, address: str | None, now: float) -> float:
        return 0.0


@pytest.fixture
def service(store: Store, monkeypatch: pytest.MonkeyPatch) -> Service:
    plain = Checkpoint.__init__

    def patient(self: Checkpoint, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **{**kwargs, "lockout": Patient()})

    monkeypatch.setattr(Checkpoint, "__init__", patient)
    return Service(store, with_settings(api={"auth": True}))


@pytest.fixture
async def donor(service: Service, tmp_path: Path):
    async with service.client() as client:
        yield await join(client, service.store, tmp_path)


Raw = list[tuple[bytes, bytes]]


class Request:
    """A signed heartbeat, byte by byte, to be changed."""

    def __init__(self, donor: Donor, query: str = "?finish=true&x=%2F") -> None:
        self.donor = donor
        self.method, self.path = "POST", f"{donor.path}/heartbeat"
        self.query = query
        self.body = httpx.Request("POST", "http://x", json=BEAT).content
        signed = donor.signed(self.method, self.path + query, self.body)
        self.headers: Raw = [(name.encode(), value.encode()) for name, value in signed.items()]
        self.headers += [(b"Host", b"127.0.0.1:8000"), (b"Content-Type", b"application/json")]

    def header(self, name: str, value: bytes | None) -> None:
        self.headers = [(key, kept) for key, kept in self.headers if key != name.encode()]
        if value is not None:
            self.headers.append((name.encode(), value))

    def value(self, name: str) -> bytes:
        return next(value for key, value in self.headers if key == name.encode())

    async def send(self) -> Answer:
        """As a server hands it to the application, byte by byte: no client puts anything in order before."""
        told: list[Any] = []
        whole = [{"type": "http.request", "body": self.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return whole.pop() if whole else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": self.method,
            "path": unquote(self.path),
            "raw_path": self.path.encode("latin-1"),
            "query_string": self.query.removeprefix("?").encode("latin-1"),
            "headers": [(name.lower(), value) for name, value in self.headers],
            "client": ("127.0.0.1", 4711),
            "server": ("127.0.0.1", 8000),
        }
        await self.donor.client._transport.app(scope, receive, send)  # type: ignore[attr-defined]
        body = b"".join(message.get("body", b"") for message in told[1:])
        return Answer(told[0]["status"], json.loads(body))


@dataclass
class Answer:
    status_code: int
    body: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return self.body


def flip(value: bytes, at: int, bit: int = 1) -> bytes:
    return value[:at] + bytes([value[at] ^ bit]) + value[at + 1 :]


def mutations() -> Iterator[tuple[str, Any]]:
    """Name and change, by table."""

    def on(attribute: str, change: Any) -> Any:
        return lambda request: setattr(request, attribute, change(getattr(request, attribute)))

    for at in range(60):
        yield f"a bit of the body at {at}", on("body", lambda body, at=at: flip(body, at % len(body)))
    yield "the body cut", on("body", lambda body: body[:-1])
    yield "the body longer", on("body", lambda body: body + b" ")
    yield "no body", on("body", lambda _: b"")
    for query in ("", "?finish=false&x=%2F", "?finish=true&x=/", "?x=%2F&finish=true", "?finish=true&x=%2f", "?"):
        yield f"the query {query!r}", on("query", lambda _, query=query: query)
    yield "more of a query", on("query", lambda query: query + "&y=1")
    yield "the path's case", on("path", lambda path: path.replace("heartbeat", "Heartbeat"))
    yield "the path encoded", on("path", lambda path: path.replace("heartbeat", "heart%62eat"))
    yield "the id encoded", on("path", lambda path: path.replace("/w-", "/w%2D"))
    yield "a slash more", on("path", lambda path: path.replace("/heartbeat", "//heartbeat"))
    yield "a dot more", on("path", lambda path: path.replace("/heartbeat", "/./heartbeat"))
    yield "another door", on("path", lambda path: path.replace("heartbeat", "drain"))
    yield "the last door", on("path", lambda path: path.replace("heartbeat", "offline"))
    for host in (b"127.0.0.1", b"localhost:8000", b"localhost", b"127.0.0.1:8001"):
        yield f"the host {host!r}", lambda request, host=host: request.header("Host", host)
    for name in (signing.SIGNATURE, signing.TIMESTAMP, signing.NONCE, signing.TOKEN):
        yield f"{name} left out", lambda request, name=name: request.header(name, None)
        yield f"{name} empty", lambda request, name=name: request.header(name, b"")
        yield f"{name} twice", lambda request, name=name: request.headers.append((name.encode(), request.value(name)))
        yield (
            f"{name} twice, another first",
            lambda request, name=name: request.headers.insert(0, (name.encode(), b"x" * 64)),
        )
        yield (
            f"{name} twice in one",
            lambda request, name=name: request.header(name, request.value(name) + b", " + request.value(name)),
        )
    for at in range(64):
        yield (
            f"a digit of the signature at {at}",
            lambda request, at=at: request.header(signing.SIGNATURE, flip(request.value(signing.SIGNATURE), at)),
        )
    for at in range(22):
        yield (
            f"a letter of the nonce at {at}",
            lambda request, at=at: request.header(signing.NONCE, flip(request.value(signing.NONCE), at, 2)),
        )
    for off in (-1, 1, 300, -300, 301, -301, 3600):
        yield (
            f"the time moved by {off} s",
            lambda request, off=off: request.header(
                signing.TIMESTAMP, str(int(request.value(signing.TIMESTAMP)) + off).encode()
            ),
        )
    for value in (b"1", b"3", b"02", b"2 ", b"two"):
        yield f"the version {value!r}", lambda request, value=value: request.header(signing.VERSION, value)
    yield "no version", lambda request: request.header(signing.VERSION, None)
    yield (
        "the signature in capitals",
        lambda request: request.header(signing.SIGNATURE, request.value(signing.SIGNATURE).upper() + b"A"),
    )
    for at in range(13, 57):
        yield (
            f"a letter of the token at {at - 13}",
            lambda request, at=at: request.header(
                signing.TOKEN, flip(request.value(signing.TOKEN), at % len(request.value(signing.TOKEN)), 2)
            ),
        )


MUTATIONS = list(mutations())
REFUSED = (401, 404, 421)
"""Not 422: that would be the word of a route which let it in."""


@pytest.mark.parametrize("met", [False, True], ids=["stranger", "known to this process"])
async def test_every_change_is_refused(donor: Donor, met: bool):
    """A5, the table. What is sent unchanged is accepted: the control."""
    for name, change in MUTATIONS:
        if met:  # a request that is refused has it looked up anew
            assert (await Request(donor).send()).status_code == 200
        request = Request(donor)
        change(request)
        answer = await request.send()
        assert answer.status_code in REFUSED, (name, answer)
    assert len(MUTATIONS) >= 200
    assert (await Request(donor).send()).status_code == 200


async def test_replays_are_refused(service: Service, donor: Donor):
    for _ in range(100):
        request = Request(donor)
        assert (await request.send()).status_code == 200
        again = await request.send()
        assert (again.status_code, again.json()["code"]) == (401, "replayed")


async def test_a_replay_to_another_process_is_refused_too(service: Service, donor: Donor):
    request = Request(donor)
    assert (await request.send()).status_code == 200
    async with service.client() as elsewhere:
        request.donor = replace(donor, client=elsewhere)
        assert (await request.send()).json()["code"] == "replayed"


async def test_without_nonces_a_replay_would_pass(service: Service, donor: Donor):
    """The control of the test above, for a worker that is met for the first time and for one that is known."""
    request = Request(donor)
    for _ in range(3):
        assert (await request.send()).status_code == 200
        with service.store._database.write() as session:
            session.run("DELETE FROM nonces", {})


async def test_a_refused_request_spends_no_nonce(service: Service, donor: Donor):
    """Else a stranger could fill the table, or spend the nonce of a request that is under way."""
    request = Request(donor)
    body, request.body = request.body, b"{}"
    assert (await request.send()).status_code == 401
    with service.store._database.read() as session:
        assert session.all("SELECT * FROM nonces", {}) == []
    request.body = body
    assert (await request.send()).status_code == 200


@pytest.mark.parametrize("nonce", [None, "abcdefgh"])
async def test_the_plain_form_is_accepted_once(donor: Donor, nonce: str | None):
    """SPEC's form, with and without a nonce, as any client may write it."""
    request = Request(donor)
    stamp = request.value(signing.TIMESTAMP).decode()
    text = f"POST:{request.path}{request.query}:{sha256(request.body).hexdigest()}:{stamp}"
    text += f":{nonce}" if nonce else ""
    mac = hmac.new(donor.held.key, text.encode(), sha256).hexdigest()
    request.header(signing.SIGNATURE, mac.encode())
    request.header(signing.NONCE, nonce.encode() if nonce else None)
    request.header(signing.VERSION, None)
    assert (await request.send()).status_code == 200
    assert (await request.send()).json()["code"] == "replayed"
    request.query = "?finish=false&x=%2F"
    assert (await request.send()).status_code == 401


PARTS = ("body", "path", "query", signing.SIGNATURE, signing.TIMESTAMP, signing.NONCE, signing.TOKEN, "Host")


async def test_mutations_by_chance_are_refused(donor: Donor):
    """A5, hypothesis: together with the table more than 500, none accepted."""
    tried = 0

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.sampled_from(PARTS), st.integers(0, 500), st.binary(max_size=3))
    def attempt(part: str, at: int, new: bytes) -> None:
        nonlocal tried
        request = Request(donor)
        if not _replaced(request, part, at, new):
            return
        tried += 1
        answer = anyio.from_thread.run(request.send)
        assert answer.status_code in REFUSED, (part, at, new, answer)

    await anyio.to_thread.run_sync(attempt)
    assert tried + len(MUTATIONS) >= 500


def _replaced(request: Request, part: str, at: int, new: bytes) -> bool:
    """Put other bytes in the place of one; whether that changed anything."""
    if part in ("path", "query"):
        old = getattr(request, part).encode("latin-1")
    else:
        old = request.body if part == "body" else request.value(part)
    place = at % len(old)
    changed = old[:place] + new + old[place + 1 :]
    if part == "Host" and changed.lower() == old.lower():
        return False
    if part in ("path", "query"):
        setattr(request, part, changed.decode("latin-1"))
    elif part == "body":
        request.body = changed
    else:
        request.header(part, changed)
    return changed.removeprefix(b"?") != old.removeprefix(b"?")


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_is_wrong_is_told_so(service: Service, donor: Donor, hours: int):
    """R15: nothing is accepted, and the owner reads what to do, as often as they try."""
    donor.clock = lambda: time.time() + 3600 * hours
    for _ in range(7):
        answer = await donor.beat()
        assert (answer.status_code, answer.json()["code"]) == (401, "clock_skew")
    told = answer.json()["detail"]
    assert ("ahead of" if hours > 0 else "behind") in told
    assert "Set this machine's clock" in told
    donor.clock = time.time
    assert (await donor.beat()).status_code == 200


@pytest.fixture
def in_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


async def test_the_time_zone_does_not_matter(in_shanghai: None, donor: Donor):
    """R15."""
    assert time.localtime().tm_gmtoff == 8 * 3600
    assert (await donor.beat()).status_code == 200
