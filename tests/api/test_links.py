"""The way to a grid that runs."""

from __future__ import annotations

import socket

import pytest
from distributed import Client, LocalCluster

from idlegrid.api.links import ask, connect, page_of


@pytest.mark.parametrize(
    ("dashboard", "page"),
    [
        (None, None),
        ("http://127.0.0.1:8787/status", "http://127.0.0.1:8787/grid"),
        ("/user/me/proxy/8787/status", "/user/me/proxy/8787/grid"),
        ("http://host/status/8787/status", "http://host/status/8787/grid"),
    ],
)
def test_the_page_stands_beside_the_dashboard(dashboard, page):
    assert page_of(dashboard) == page


def test_nobody_answers():
    with socket.socket() as silent:  # bound, but nobody listens
        silent.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=rf"no grid answers at {address} within 0\.2 s; start one with"):
            connect(address, timeout=0.2)


@pytest.mark.parametrize("address", ["somewhere", "http://127.0.0.1:1"])
def test_what_can_be_no_address(address):
    with pytest.raises(ConnectionError, match=f"'{address}' is not the address of a scheduler .* tcp://host:8786"):
        connect(address, timeout=0.2)


def test_a_scheduler_without_our_rules_is_told():
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", processes=False) as cluster,
        Client(cluster) as client,
        pytest.raises(ConnectionError, match="does not know the grid's rules; start it with `idlegrid scheduler`"),
    ):
        ask(client, "grid_state")
