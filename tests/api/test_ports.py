"""Ports that are free and ports that are not."""

from __future__ import annotations

import socket

import pytest

from idlegrid.api.ports import LOOPBACK, CannotStart, check_free, obstacle


@pytest.fixture
def taken():
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_free_port_stays_free(taken):
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        free = probe.getsockname()[1]
    assert obstacle(LOOPBACK, free) is None
    assert obstacle(LOOPBACK, free) is None
    assert obstacle(LOOPBACK, 0) is None


def test_a_taken_port_is_told_with_what_to_do(taken):
    with pytest.raises(CannotStart, match=rf"port {taken} of 127\.0\.0\.1 is taken.*Choose another port with --port"):
        check_free(LOOPBACK, taken, "--port")


def test_an_address_that_is_not_ours():
    with pytest.raises(CannotStart, match=r"can't listen on 192\.0\.2\.1:8000 \("):
        check_free("192.0.2.1", 8000, "--port")
