"""Signatures fit the bytes that were sent and nothing else."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from idlegrid.grid.signing import (
    WINDOW,
    BadSignature,
    ClockSkew,
    Signature,
    check,
    read_signature,
    signed_headers,
)

SECRET, NOW = b"k" * 64, 1_800_000_000
PLACE: dict[str, Any] = {
    "key_id": "w-1",
    "method": "POST",
    "host": "grid.example:8000",
    "raw_path": b"/api/v1/workers/w-1/heartbeat",
    "raw_query": b"a=%2F&b=1",
    "body": b'{"status":"online"}\xff',
}


def signed(**change: Any) -> Signature:
    headers = signed_headers(SECRET, **{**PLACE, "timestamp": NOW, "nonce": "n" * 22, **change})
    found = read_signature((name.lower().encode(), value.encode()) for name, value in headers.items())
    assert found is not None
    return found


def look(secret: bytes, signature: Signature, *, body: bytes, now: float, **place: Any) -> str:
    """As a server that has the body whole."""
    return check(secret, signature, body_hash=sha256(body).hexdigest(), now=now, **place)


def plain(nonce: str | None = None, *, path: bytes = b"/p?q=1", body: bytes = b"b") -> Signature:
    """SPEC's plain form, written out as a stranger would."""
    text = b"POST:%s:%s:%d" % (path, sha256(body).hexdigest().encode(), NOW) + (f":{nonce}".encode() if nonce else b"")
    return Signature(mac=hmac.new(SECRET, text, sha256).hexdigest(), timestamp=str(NOW), nonce=nonce, version=1)


def test_what_was_signed_is_accepted_and_tells_its_nonce():
    assert look(SECRET, signed(), **PLACE, now=NOW) == "n" * 22


def test_the_form_of_version_2_is_fixed():
    body = sha256(PLACE["body"]).hexdigest()
    lines = ["v2", "w-1", "POST", "grid.example:8000", "/api/v1/workers/w-1/heartbeat", "a=%2F&b=1", body, str(NOW)]
    text = "\n".join([*lines, "n" * 22]).encode()
    assert signed().mac == hmac.new(SECRET, text, sha256).hexdigest()


@pytest.mark.parametrize("nonce", [None, "abcdefgh"])
def test_the_plain_form_is_accepted(nonce: str | None):
    place = PLACE | {"raw_path": b"/p", "raw_query": b"q=1", "body": b"b"}
    signature = plain(nonce)
    assert look(SECRET, signature, **place, now=NOW) == (nonce or f"sig:{signature.mac}")
    with pytest.raises(BadSignature):
        look(SECRET, signature, **{**place, "raw_query": b"q=2"}, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": "w-2"},
        {"method": "PUT"},
        {"host": "other.example"},
        {"raw_path": b"/API/v1/workers/w-1/heartbeat"},
        {"raw_path": b"/api/v1/workers/w%2D1/heartbeat"},
        {"raw_path": b"/api/v1/workers/w-1/heartbeat/"},
        {"raw_query": b"a=/&b=1"},
        {"raw_query": b"b=1&a=%2F"},
        {"raw_query": b""},
        {"body": b'{"status":"online"}\xfe'},
        {"body": b""},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]):
    with pytest.raises(BadSignature, match="does not fit"):
        look(SECRET, signed(), **{**PLACE, **change}, now=NOW)
    with pytest.raises(BadSignature, match="does not fit"):
        look(b"other", signed(), **PLACE, now=NOW)


def test_a_host_is_the_same_in_any_case():
    assert look(SECRET, signed(), **{**PLACE, "host": "GRID.example:8000"}, now=NOW)


@pytest.mark.parametrize("off", [0, WINDOW, -WINDOW])
def test_the_window(off: int):
    look(SECRET, signed(), **PLACE, now=NOW + off)


@pytest.mark.parametrize(("off", "told"), [(WINDOW + 1, "301 s behind"), (-3600, "3600 s ahead of")])
def test_a_wrong_clock_is_told_what_to_do_but_only_to_who_has_the_secret(off: int, told: str):
    with pytest.raises(ClockSkew, match=told) as error:
        look(SECRET, signed(), **PLACE, now=NOW + off)
    assert "Set this machine's clock" in str(error.value)
    with pytest.raises(BadSignature) as refusal:
        look(b"other", signed(), **PLACE, now=NOW + off)
    assert not isinstance(refusal.value, ClockSkew)


GOOD = [(b"x-signature", b"0" * 64), (b"x-timestamp", b"1"), (b"x-nonce", b"n" * 8), (b"x-signature-version", b"2")]


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        *(([*GOOD, one], "twice") for one in GOOD),
        ([*GOOD, (b"host", b"a"), (b"host", b"b")], "Host is there twice"),
        ([*GOOD, (b"x-worker-token", b"a"), (b"x-worker-token", b"a")], "twice"),
        (GOOD[:1], "X-Timestamp is missing"),
        (GOOD[1:], "X-Signature is missing"),
        ([GOOD[0], GOOD[1], GOOD[3]], "X-Nonce is missing"),
        ([*GOOD[:3], (b"x-signature-version", b"3")], "not of the form"),
        ([GOOD[0], (b"x-timestamp", b"-1")], "not of the form"),
        ([GOOD[0], (b"x-timestamp", "\u0661".encode())], "not of the form"),
        ([(b"x-signature", b"A" * 64), GOOD[1]], "not of the form"),
        ([GOOD[0], GOOD[1], (b"x-nonce", b"a:b:c:d:e")], "not of the form"),
    ],
)
def test_headers_that_are_refused(headers: list[tuple[bytes, bytes]], told: str):
    with pytest.raises(BadSignature, match=told):
        read_signature(headers)


def test_no_signature_is_none():
    assert read_signature([(b"host", b"a"), (b"x-worker-token", b"t")]) is None


def test_a_nonce_that_is_none():
    with pytest.raises(ValueError, match="nonce"):
        signed(nonce="a b")


PART = st.binary(max_size=20).filter(lambda part: b"\n" not in part)


@given(PART, PART, PART, PART, st.binary(max_size=20), st.binary(max_size=20))
def test_no_two_requests_have_the_same_signature(path, query, other_path, other_query, body, other_body):
    one = PLACE | {"raw_path": path, "raw_query": query, "body": body}
    other = PLACE | {"raw_path": other_path, "raw_query": other_query, "body": other_body}
    assume(one != other)
    signature = signed(**one)
    look(SECRET, signature, **one, now=NOW)
    with pytest.raises(BadSignature):
        look(SECRET, signature, **other, now=NOW)
