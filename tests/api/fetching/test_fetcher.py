"""What is fetched, and what is not: 0 connections to addresses that are not public (A8)."""

import asyncio
import ipaddress
import socket

import httpcore
import pytest
from small_web import PICTURE

from idlegrid.api.fetching import Fetcher, FetchFailed, FetchLimits, FetchRefused
from idlegrid.api.fetching.pinned import PinnedNetwork
from idlegrid.grid.addresses import is_public
from idlegrid.grid.config.fetch import Fetch


@pytest.fixture
def fetcher(web, tls):
    def make(*, permit=is_public, **limits):
        limits = FetchLimits(**{"allow_http": True, "seconds": 20.0, "max_bytes": 200_000} | limits)
        network = PinnedNetwork(web.resolve, permit=permit, network=web)
        return Fetcher(limits, network=network, tls=tls[1])

    return make


@pytest.mark.parametrize("url", ["https://media.example/picture", "http://media.example/picture"])
async def test_a_file_of_the_public_internet(url, web, fetcher):
    assert await fetcher().fetch(url, kind="image") == PICTURE
    assert web.dialled == ["8.8.8.8"]
    assert "Host: media.example\r\n" in web.seen[0]


async def test_nothing_but_the_address_is_told(web, fetcher, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    await fetcher().fetch("https://media.example/picture", kind="image")
    names = {line.split(":")[0].lower() for line in web.seen[0].split("\r\n")[1:] if line}
    assert names == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert web.dialled == ["8.8.8.8"]


async def test_the_certificate_is_that_of_the_name(web, fetcher):
    web.names["wrong.example"] = ["8.8.8.8"]
    with pytest.raises(FetchFailed, match="certificate"):
        await fetcher().fetch("https://wrong.example/picture", kind="image")


async def test_redirects_are_followed_by_hand(web, fetcher):
    url = "https://media.example/to?https://other.example/to?/picture"
    assert await fetcher().fetch(url, kind="image") == PICTURE
    assert web.dialled == ["8.8.8.8", "1.1.1.1", "1.1.1.1"]


async def test_but_not_for_ever(web, fetcher):
    url = "https://media.example/to?/to?/to?/to?/to?/picture"
    with pytest.raises(FetchRefused, match="more than 3 times"):
        await fetcher().fetch(url, kind="image")


async def test_an_address_that_is_away_is_not_the_only_one(web, fetcher):
    class Half(type(web)):
        async def connect_tcp(self, host, port, **options):
            stream = await super().connect_tcp(host, port, **options)
            if host == "8.8.8.8":
                await stream.aclose()
                raise httpcore.ConnectError("away")
            return stream

    web.__class__ = Half
    web.names["media.example"] = ["8.8.8.8", "1.1.1.1"]
    assert await fetcher().fetch("https://media.example/picture", kind="image") == PICTURE


LITERALS = [
    "127.0.0.1",
    "127.1",
    "0x7f.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "127.0.0.01",
    "0.0.0.0",
    "0",
    "１２７.0.0.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::1]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "localhost",
    "metadata",
    "user:word@media.example",
    "media.example@127.0.0.1",
    "media.example\\@127.0.0.1",
    "media.example:8080",
    "media.example:22",
]
WHOLE = [
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "ftp://media.example/picture",
    "dict://127.0.0.1:11211/",
    "unix:///run/docker.sock",
    "http+unix://%2frun%2fdocker.sock/",
    "//127.0.0.1/picture",
    "https:media.example",
    "",
]


@pytest.mark.parametrize(
    "url", [f"{scheme}://{host}/picture" for host in LITERALS for scheme in ("http", "https")] + WHOLE
)
async def test_addresses_that_are_never_dialled(url, web, fetcher):
    with pytest.raises(FetchRefused):
        await fetcher().fetch(url, kind="image")
    assert web.dialled == []


@pytest.mark.parametrize("url", [f"http://{host}/picture" for host in LITERALS if "media" not in host] + WHOLE)
async def test_nor_behind_a_redirect(url, web, fetcher):
    with pytest.raises((FetchRefused, FetchFailed)):  # an empty one leads back, and on, and on
        await fetcher().fetch(f"http://media.example/to?{url.encode().decode('latin-1')}", kind="image")
    assert set(web.dialled) <= {"8.8.8.8"}


HIDDEN = [
    ["127.0.0.1"],
    ["8.8.8.8", "127.0.0.1"],
    ["10.0.0.1", "8.8.8.8"],
    ["2606:4700::1111", "::ffff:169.254.169.254"],
    ["fe80::1%lo"],
    ["64:ff9b::a00:1"],
]


@pytest.mark.parametrize("addresses", HIDDEN)
async def test_names_that_hide_a_private_address(addresses, web, fetcher):
    web.names["evil.example"] = addresses
    for url in ("http://evil.example/picture", "http://media.example/to?http://evil.example/picture"):
        with pytest.raises(FetchRefused, match="not on the public internet"):
            await fetcher().fetch(url, kind="image")
    assert set(web.dialled) <= {"8.8.8.8"}


async def test_a_name_that_changes_its_mind(web, fetcher):
    """It is asked once, and what it said is dialled; asked anew for a redirect, its new answer is checked."""
    web.names["evil.example"] = [["8.8.8.8"], ["127.0.0.1"]]
    assert await fetcher().fetch("http://evil.example/picture", kind="image") == PICTURE
    assert (web.dialled, web.asked) == (["8.8.8.8"], ["evil.example"])
    web.names["evil.example"] = [["8.8.8.8"], ["127.0.0.1"]]
    with pytest.raises(FetchRefused):
        await fetcher().fetch("http://evil.example/to?/picture", kind="image")
    assert set(web.dialled) == {"8.8.8.8"}


async def test_control_without_the_rule_private_addresses_are_dialled(web, fetcher):
    web.names["evil.example"] = ["127.0.0.1"]
    for url in (
        "http://10.0.0.1/picture",
        "http://[::1]/picture",
        "http://evil.example/picture",
        "http://media.example/to?http://169.254.169.254/picture",
    ):
        await fetcher(permit=lambda _: True).fetch(url, kind="image")
    assert not any(map(is_public, map(ipaddress.ip_address, {*web.dialled} - {"8.8.8.8"})))
    assert len(web.dialled) == 5


def test_control_the_system_takes_numbers_in_disguise_for_addresses():
    assert {one[4][0] for one in socket.getaddrinfo("127.1", 80)} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("path", "refusal", "told"),
    [
        ("page", FetchRefused, "no image of a known format: bmp, gif, jpeg, png, webp"),
        ("sound", FetchRefused, "no image"),
        ("gzip", FetchRefused, "compressed"),
        ("liar", FetchRefused, "more than 200,000 bytes"),
        ("large", FetchRefused, "more than 200,000 bytes"),
        ("endless", FetchRefused, "more than 200,000 bytes"),
        ("none", FetchFailed, "status 404"),
        ("cut", FetchFailed, "broke off"),
        ("headers", FetchFailed, "broke off"),
        ("noise", FetchFailed, "broke off"),
    ],
)
async def test_files_that_are_not_taken(path, refusal, told, fetcher):
    with pytest.raises(refusal, match=told):
        await fetcher().fetch(f"https://media.example/{path}", kind="image")


async def test_a_file_shorter_than_its_head(fetcher):
    assert len(await fetcher().fetch("https://media.example/short", kind="image")) == 8


@pytest.mark.parametrize("path", ["drip", "silent"])
async def test_who_is_slow_is_left(path, fetcher):
    with pytest.raises(FetchFailed, match=r"within 0.3 s"):
        await fetcher(seconds=0.3).fetch(f"https://media.example/{path}", kind="image")


async def test_a_resolver_that_never_answers(web, fetcher):
    async def never(host, port):
        await asyncio.sleep(60)

    web.resolve = never
    with pytest.raises(FetchFailed, match=r"within 0.2 s"):
        await fetcher(seconds=0.2).fetch("https://media.example/picture", kind="image")


async def test_a_name_that_nobody_knows(fetcher):
    with pytest.raises(FetchFailed, match=r"unknown.example is not known"):
        await fetcher().fetch("https://unknown.example/", kind="image")


async def test_an_operator_may_fetch_nothing():
    with pytest.raises(FetchRefused, match=r"fetch.enabled"):
        await Fetcher.from_settings(Fetch(enabled=False)).fetch("https://media.example/", kind="image")


async def test_from_settings():
    made = Fetcher.from_settings(Fetch(max_mb=1, timeout=2, allow_http=True, refused_networks=("8.8.8.0/24",)))
    assert made.limits == FetchLimits(max_bytes=1_000_000, seconds=2, allow_http=True)
    with pytest.raises(FetchRefused, match="not on the public internet"):
        await made.fetch("http://8.8.8.8/", kind="image")
