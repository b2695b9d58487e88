"""In which region a client is, by its IP address: a GeoIP file, or a table of networks."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from .regions import check_region

_Address = IPv4Address | IPv6Address


class Locator(Protocol):
    """Anything that knows where addresses are."""

    def region_of(self, ip: str) -> str | None:
        """Region code of an IPv4 or IPv6 address. None: not known, or the text is no address."""


def region_of(ip: str | None, *locators: Locator | None, default: str | None = None) -> str | None:
    """The region of a client's address by the first locator that knows it, else `default`.

    The usual order is ``region_of(ip, networks, geoip)``: what the operator wrote, private networks too, then the GeoIP
    file if there is one.
    """
    for locator in locators:
        if ip is not None and locator is not None and (region := locator.region_of(ip)) is not None:
            return region
    return default


def parse_address(ip: str) -> _Address | None:
    """The address in a text, or None. IPv4 inside IPv6 (``::ffff:192.0.2.1``) is unwrapped, a zone (``%eth0``) cut."""
    try:
        address = ip_address(ip.strip().partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class NetworkTable:
    """Network in CIDR notation → region code; the longest prefix wins."""

    def __init__(self, networks: Mapping[str, str]) -> None:
        """Raises ValueError on a text that is no network (host bits set count as a mistake) or an unknown region."""
        self._regions: dict[tuple[int, int, int], str] = {}
        for text, region in networks.items():
            try:
                network = ip_network(text.strip())
            except ValueError as error:
                raise ValueError(
                    f"{text!r} is no network: {error}; write it like 192.0.2.0/24 or 2001:db8::/32"
                ) from None
            key = (network.version, network.prefixlen, int(network.network_address))
            self._regions[key] = check_region(region)
        self._prefixes = {
            version: sorted({prefix for other, prefix, _ in self._regions if other == version}, reverse=True)
            for version in (4, 6)
        }

    def region_of(self, ip: str) -> str | None:
        """Region code of the narrowest network that holds the address; None when none does."""
        address = parse_address(ip)
        if address is None:
            return None
        for prefix in self._prefixes[address.version]:
            host_bits = address.max_prefixlen - prefix
            region = self._regions.get((address.version, prefix, int(address) >> host_bits << host_bits))
            if region is not None:
                return region
        return None


class GeoIP:
    """A MaxMind database (``.mmdb``, GeoLite2 or GeoIP2, Country or City); to be closed, or used with `with`."""

    def __init__(self, path: Path | str) -> None:
        """Raises ModuleNotFoundError without the reader, FileNotFoundError, ValueError when the file is no database."""
        try:
            import maxminddb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "a GeoIP file needs the package maxminddb: pip install 'idlegrid[api]'", name=error.name
            ) from error
        try:
            self._reader: Any = maxminddb.open_database(path)
        except maxminddb.InvalidDatabaseError as error:
            raise ValueError(f"{path} is no MaxMind database: {error}") from error

    def region_of(self, ip: str) -> str | None:
        """Region code of the country, else of the continent, that the database gives for the address."""
        address = parse_address(ip)
        if address is None or (address.version == 6 and self._reader.metadata().ip_version == 4):
            return None
        record = self._reader.get(address) or {}
        country, continent = record.get("country") or {}, record.get("continent") or {}
        return region_of_country(country.get("iso_code"), continent.get("code"))

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def region_of_country(country: str | None, continent: str | None) -> str | None:
    """Region code for an ISO 3166 country and a continent code as MaxMind writes it (``AF AN AS EU NA OC SA``).

    Where the seven regions have no name for a place, the region to which its cables lead: Africa is europe-west, the
    Gulf asia-south, the Levant, the Caucasus and Central Asia europe-east, Central America and the Caribbean
    america-north.
    """
    return _COUNTRIES.get(country or "") or _CONTINENTS.get(continent or "")


_CONTINENTS = {
    "AF": "europe-west",
    "AN": "oceania",
    "AS": "asia-east",
    "EU": "europe-west",
    "NA": "america-north",
    "OC": "oceania",
    "SA": "america-south",
}
# Countries that don't follow their continent.
_COUNTRIES = {
    country: region
    for region, countries in {
        "asia-south": "IN PK BD LK NP BT MV AF SG MY ID TH KH LA MM BN TL AE SA QA KW BH OM YE IR IO MU SC RE YT KM MG",
        "europe-east": "PL CZ SK HU RO BG MD UA BY RU EE LV LT FI RS BA ME MK AL XK HR SI GR CY TR GE AM AZ KZ KG UZ "
        "TM TJ IL PS LB SY JO IQ EG",
    }.items()
    for country in countries.split()
}
