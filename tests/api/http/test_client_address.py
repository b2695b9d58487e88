from __future__ import annotations

import pytest

from idlegrid.api.http.client_address import address_reader


def scope(client: str | None, *forwarded: str) -> dict:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"type": "http", "headers": headers, "client": (client, 1) if client else None}


@pytest.mark.parametrize(
    ("connects", "forwarded", "client"),
    [
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4", "203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        (None, ["203.0.113.9"], None),
        ("testclient", [], None),
    ],
)
def test_the_nearest_address_that_no_trusted_proxy_has(connects, forwarded, client):
    assert address_reader(("10.0.0.0/8",))(scope(connects, *forwarded)) == client


def test_nobody_is_trusted_by_default():
    assert address_reader(None)(scope("127.0.0.1", "203.0.113.9")) == "127.0.0.1"
