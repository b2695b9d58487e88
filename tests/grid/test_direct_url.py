"""Addresses of direct mode: what a stranger's client may be sent to, and what not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.direct_url import check_direct_url

PUBLIC = [
    ("https://gpu.example.org", "https://gpu.example.org"),
    ("https://GPU.example.org:8443/", "https://gpu.example.org:8443"),
    ("https://8.8.8.8:8080", "https://8.8.8.8:8080"),
    ("https://[2606:4700:0000::1111]:8080/", "https://[2606:4700::1111]:8080"),
    ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
]
PRIVATE = [
    "http://gpu.example.org",
    "http://8.8.8.8",
    "http://127.0.0.1:8080",
    "https://127.0.0.1",
    "https://10.0.0.7:8080",
    "https://192.168.1.1",
    "https://169.254.169.254",
    "https://100.64.0.1",
    "https://[::1]:8080",
    "https://[fe80::1]",
    "https://[::ffff:10.0.0.1]",
    "https://[2002:0a00:0001::1]",
    "https://localhost",
    "https://router.local",
    "https://metadata.google.internal",
    "https://nas",
]
NEVER = [
    "",
    "gpu.example.org",
    "ftp://gpu.example.org",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://",
    "https://user:password@gpu.example.org",
    "https://gpu.example.org@evil.example",
    "https://gpu.example.org/path",
    "https://gpu.example.org/?a=b",
    "https://gpu.example.org?",
    "https://gpu.example.org#x",
    "https://gpu.example.org\\@evil.example",
    "https://gpu.example.org:0",
    "https://gpu.example.org:99999",
    "https://gpu.example.org:port",
    "https://gpu .example.org",
    "https://gpu.example.org\r\nX-Evil: 1",
    "https://0.0.0.0",
    "https://[::]",
    "https://224.0.0.1",
    "https://127.1",
    "https://0x7f.1",
    "https://2130706433",
    "https://0x7f000001",
    "https://[::1",
    "https://bücher.example",
    "https://-gpu.example.org",
    "https://" + "a" * 300,
]


@pytest.mark.parametrize(("said", "kept"), PUBLIC)
def test_a_public_address_over_tls_is_kept_in_its_normal_form(said, kept):
    assert check_direct_url(said) == kept


@pytest.mark.parametrize("said", PRIVATE)
def test_a_private_network_or_plain_http_is_for_private_grids(said):
    with pytest.raises(ValueError, match="private network"):
        check_direct_url(said)
    assert check_direct_url(said, private=True)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("said", NEVER)
def test_what_is_no_address_of_a_worker_is_refused_everywhere(said, private):
    with pytest.raises(ValueError):
        check_direct_url(said, private=private)


@given(st.text(max_size=60).map("https://{}".format) | st.text(), st.booleans())
def test_whatever_is_said_it_is_refused_or_kept_in_a_form_that_stays(said, private):
    try:
        kept = check_direct_url(said, private=private)
    except ValueError:
        return
    assert check_direct_url(kept, private=private) == kept
    assert "@" not in kept
