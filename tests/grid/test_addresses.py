import ipaddress

import pytest

from idlegrid.grid.addresses import AddressRefused, Target, check_addresses, is_public, redirected, target


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_machines_of_the_public_internet(address):
    assert is_public(ipaddress.ip_address(address))


PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # metadata at Alibaba
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # the host at Azure
    "169.254.169.254",  # metadata elsewhere
    "172.16.0.1",
    "192.0.0.192",  # metadata at Oracle
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2606:4700::5efe:7f00:1",  # ISATAP
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata at Amazon
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_machines_of_somebodys_own(address):
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(AddressRefused, match="not on the public internet"):
        check_addresses("media.example", ["8.8.8.8", address])


def test_an_operator_excludes_networks_of_its_own():
    own = [ipaddress.ip_network("8.8.8.0/24")]
    for address in ("8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        with pytest.raises(AddressRefused):
            check_addresses("media.example", [address], own)
    assert check_addresses("media.example", ["8.8.4.4"], own) == [ipaddress.ip_address("8.8.4.4")]


def test_a_name_without_addresses():
    with pytest.raises(AddressRefused, match="no address"):
        check_addresses("media.example", [])


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://Media.Example", Target("https", "media.example", "/")),
        ("https://media.example./a?b=c#d", Target("https", "media.example", "/a?b=c")),
        ("https://media.example:443/ä", Target("https", "media.example", "/%C3%A4")),
        ("https://media.example/%2e%2E/", Target("https", "media.example", "/%2e%2E/")),
        ("https://bücher.example/", Target("https", "xn--bcher-kva.example", "/")),
        ("https://[2606:4700:0::1111]/", Target("https", "2606:4700::1111", "/")),
        ("http://media.example/", Target("http", "media.example", "/")),
        ("https://１２７.0.0.1/", Target("https", "127.0.0.1", "/")),  # its address is refused later
    ],
)
def test_addresses_of_the_web(url, found):
    assert target(url, allow_http=True) == found
    assert target(found.url, allow_http=True) == found


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "characters"),
        ("https://media.example/" + "a" * 5000, "characters"),
        ("file:///etc/passwd", "begins with"),
        ("gopher://media.example/", "begins with"),
        ("ftp://media.example/", "begins with"),
        ("//media.example/", "begins with"),
        ("media.example", "begins with"),
        ("https://user@media.example/", "user name"),
        ("https://user:word@media.example/", "user name"),
        ("https://8.8.8.8@127.0.0.1/", "user name"),
        ("https://media.example:8443/", "port 443"),
        ("https://media.example:80/", "port 443"),
        ("http://media.example:443/", "port 80"),
        ("https://media.example:0/", "port 443"),
        ("https://media.example:99999/", "no address"),
        ("https://[::1", "no address"),
        ("https://", "no name"),
        ("https://media..example/", "no name"),
        ("https://-a.example/", "no name"),
        ("https://localhost/", "no name of the public internet"),
        ("https://metadata/", "no name of the public internet"),
        ("https://127.1/", "usual form"),
        ("https://0x7f.1/", "usual form"),
        ("https://0x7f000001/", "usual form"),
        ("https://2130706433/", "usual form"),
        ("https://017700000001/", "usual form"),
        ("https://127.0.0.01/", "usual form"),
        ("https://127.0.0.1./", "usual form"),
        ("https://media.example\\@127.0.0.1/", "backslashes"),
        ("https://media.example/\r\nHost: x", "control characters"),
        (" https://media.example/", "spaces"),
        ("https://media.example\t/", "control characters"),
    ],
)
def test_what_is_no_address_of_the_web(url, told):
    with pytest.raises(AddressRefused, match=told):
        target(url, allow_http=True)


def test_http_only_where_it_is_allowed():
    with pytest.raises(AddressRefused, match="https://"):
        target("http://media.example/")


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b", "https://media.example/b"),
        ("b?c", "https://media.example/a/b?c"),
        ("//other.example/", "https://other.example/"),
        ("https://other.example:443/x#y", "https://other.example/x"),
    ],
)
def test_redirects(location, url):
    assert redirected(target("https://media.example/a/"), location, allow_http=True).url == url


@pytest.mark.parametrize(
    "location", ["http://media.example/", "file:///etc/passwd", "https://a@b.example/", "https://[/"]
)
def test_redirects_that_lead_astray(location):
    with pytest.raises(AddressRefused):
        redirected(target("https://media.example/a/"), location, allow_http=True)
