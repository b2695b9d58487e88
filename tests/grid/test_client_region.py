"""Where a client is: by a table of networks, by a real MaxMind file."""

from __future__ import annotations

import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.client_region import GeoIP, NetworkTable, parse_address, region_of, region_of_country
from idlegrid.grid.regions import REGIONS, UnknownRegionError

TABLE = {
    "10.0.0.0/8": "europe-west",
    "10.7.0.0/16": "oceania",
    "10.7.7.7/32": "asia-east",
    "2001:db8::/32": "asia-south",
    "2001:db8:1::/48": "america-north",
}


@pytest.mark.parametrize(
    ("ip", "region"),
    [
        ("10.1.2.3", "europe-west"),
        ("10.7.2.3", "oceania"),
        ("10.7.7.7", "asia-east"),
        ("11.0.0.0", None),
        ("2001:db8::1", "asia-south"),
        ("2001:db8:1::1", "america-north"),
        ("2001:db9::1", None),
        ("::ffff:10.7.2.3", "oceania"),
        (" 10.7.2.3 ", "oceania"),
        ("2001:db8::1%eth0", "asia-south"),
        ("not an address", None),
        ("", None),
    ],
)
def test_the_narrowest_network_wins(ip, region):
    assert NetworkTable(TABLE).region_of(ip) == region


networks = st.builds(
    lambda address, prefix: str(ip_network((address, min(prefix, address.max_prefixlen)), strict=False)),
    st.ip_addresses(),
    st.integers(0, 128),
)


@given(st.dictionaries(networks, st.sampled_from(sorted(REGIONS)), max_size=30), st.ip_addresses())
def test_the_table_answers_as_a_look_at_every_network_does(table, address):
    at = parse_address(str(address))
    holding = [ip_network(text) for text in table if at in ip_network(text)]
    expected = table[str(max(holding, key=lambda network: network.prefixlen))] if holding else None
    assert NetworkTable(table).region_of(str(address)) == expected


def test_a_table_with_a_mistake_is_refused():
    with pytest.raises(ValueError, match=r"'10\.0\.0\.1/8' is no network"):
        NetworkTable({"10.0.0.1/8": "oceania"})
    with pytest.raises(UnknownRegionError, match="'mars'"):
        NetworkTable({"10.0.0.0/8": "mars"})


# GeoIP


def mmdb(networks: dict[str, dict]) -> bytes:
    """A MaxMind database (format 2.0) with 24-bit records, IPv4 at ::/96. Spec: maxmind.github.io/MaxMind-DB."""
    nodes: list[list[int | bytes | None]] = [[None, None]]
    for text, record in networks.items():
        network = ip_network(text)
        bits = f"{int(network.network_address):0128b}"
        length = network.prefixlen + (96 if network.version == 4 else 0)
        node = 0
        for bit in map(int, bits[: length - 1]):
            if nodes[node][bit] is None:
                nodes.append([None, None])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][int(bits[length - 1])] = field(record)
    tree, data = b"", b""
    for pair in nodes:
        for child in pair:
            if isinstance(child, bytes):
                tree += (len(nodes) + 16 + len(data)).to_bytes(3, "big")
                data += child
            else:
                tree += (len(nodes) if child is None else child).to_bytes(3, "big")
    metadata = {"node_count": uint(6, len(nodes), 4), "record_size": uint(5, 24, 2), "ip_version": uint(5, 6, 2)}
    metadata |= {f"binary_format_{part}_version": uint(5, number, 2) for part, number in (("major", 2), ("minor", 0))}
    metadata |= {"build_epoch": uint(9, 1, 8), "database_type": "Test-Country", "languages": [], "description": {}}
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + field(metadata)


def field(value: str | dict | list | bytes) -> bytes:
    """A value of the format's data section: strings, maps and lists of fewer than 29; bytes are encoded already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return bytes([2 << 5 | len(value)]) + value.encode()
    if isinstance(value, dict):
        return bytes([7 << 5 | len(value)]) + b"".join(field(k) + field(v) for k, v in value.items())
    return bytes([len(value), 11 - 7]) + b"".join(map(field, value))


def uint(kind: int, value: int, width: int) -> bytes:
    """An unsigned integer: 5 is uint16, 6 uint32, 9 uint64; kinds above 7 stand in a byte of their own."""
    return bytes([kind << 5 | width] if kind < 8 else [width, kind - 7]) + value.to_bytes(width, "big")


def place(country: str | None, continent: str) -> dict:
    named = {"country": {"iso_code": country}} if country else {}
    return named | {"continent": {"code": continent}}


@pytest.fixture
def geoip_file(tmp_path: Path) -> Path:
    path = tmp_path / "country.mmdb"
    path.write_bytes(
        mmdb(
            {
                "192.0.2.0/25": place("DE", "EU"),
                "192.0.2.128/25": place("PL", "EU"),
                "198.51.100.0/24": place("IN", "AS"),
                "203.0.113.0/24": place(None, "SA"),
                "2001:db8::/32": place("JP", "AS"),
                "2001:db9::/32": place("AU", "OC"),
                "2001:dba::/32": {},
            }
        )
    )
    return path


@pytest.mark.parametrize(
    ("ip", "region"),
    [
        ("192.0.2.1", "europe-west"),
        ("192.0.2.200", "europe-east"),
        ("::ffff:192.0.2.200", "europe-east"),
        ("198.51.100.9", "asia-south"),
        ("203.0.113.9", "america-south"),
        ("2001:db8::9", "asia-east"),
        ("2001:db9::9", "oceania"),
        ("2001:dba::9", None),
        ("127.0.0.1", None),
        ("10.0.0.1", None),
        ("nonsense", None),
    ],
)
def test_a_geoip_file_gives_country_then_continent(geoip_file, ip, region):
    with GeoIP(geoip_file) as geoip:
        assert geoip.region_of(ip) == region


def test_the_operators_table_comes_before_the_file_and_the_default_last(geoip_file):
    networks = NetworkTable({"192.0.2.0/30": "oceania", "10.0.0.0/8": "asia-south"})
    with GeoIP(geoip_file) as geoip:
        found = [region_of(ip, networks, geoip) for ip in ("192.0.2.1", "192.0.2.9", "10.0.0.1", "127.0.0.1", None)]
        assert found == ["oceania", "europe-west", "asia-south", None, None]
        assert region_of("127.0.0.1", networks, geoip, default="asia-east") == "asia-east"
    assert region_of("10.0.0.1", networks, None) == "asia-south"


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    path = tmp_path / "broken.mmdb"
    path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"broken\.mmdb is no MaxMind database"):
        GeoIP(path)
    with pytest.raises(FileNotFoundError):
        GeoIP(tmp_path / "absent.mmdb")


def test_without_the_reader_the_error_says_what_to_install(geoip_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'idlegrid\[api\]'"):
        GeoIP(geoip_file)


@pytest.mark.parametrize(
    ("country", "continent", "region"),
    [
        ("US", "NA", "america-north"), ("MX", "NA", "america-north"), ("BR", "SA", "america-south"),
        ("CN", "AS", "asia-east"), ("KR", "AS", "asia-east"), ("SG", "AS", "asia-south"), ("AE", "AS", "asia-south"),
        ("FR", "EU", "europe-west"), ("RU", "EU", "europe-east"), ("TR", "AS", "europe-east"),
        ("ZA", "AF", "europe-west"), ("EG", "AF", "europe-east"), ("NZ", "OC", "oceania"), ("AQ", "AN", "oceania"),
        (None, "EU", "europe-west"), (None, None, None), ("XX", None, None),
    ],
)  # fmt: skip
def test_every_country_has_its_region(country, continent, region):
    assert region_of_country(country, continent) == region


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text):
    address = parse_address(text)
    assert address is None or ip_address(address)
