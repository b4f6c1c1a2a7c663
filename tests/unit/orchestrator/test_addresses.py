"""Whose address a connection has, behind proxies that are believed and others that are not."""

from __future__ import annotations

import pytest

from orchestrator.core.addresses import crowd_of, networks, peer_address

PROXIES = networks(("10.0.0.0/8", "2001:db8:1::/48"))

SAID = [
    ("192.0.2.1", (), ("198.51.100.9",), "192.0.2.1"),
    ("10.0.0.1", (), (), "10.0.0.1"),
    ("10.0.0.1", (), ("198.51.100.9",), "198.51.100.9"),
    ("10.0.0.1", (), ("203.0.113.5, 198.51.100.9",), "198.51.100.9"),
    ("10.0.0.1", (), ("203.0.113.5", "198.51.100.9, 10.2.3.4"), "198.51.100.9"),
    ("10.0.0.1", (), ("198.51.100.9:4711",), "198.51.100.9"),
    ("10.0.0.1", (), ("rubbish",), "10.0.0.1"),
    ("10.0.0.1", (), ("198.51.100.9, rubbish, 10.0.0.2",), "10.0.0.2"),
    ("::ffff:10.0.0.1", (), ("198.51.100.9",), "198.51.100.9"),
    ("2001:db8:1::1", (), ("2001:db8:2::7",), "2001:db8:2::7"),
    ("10.0.0.1", ("for=198.51.100.9;proto=https",), (), "198.51.100.9"),
    ("10.0.0.1", ('proto=https;For="[2001:db8:2::7]:4711"',), (), "2001:db8:2::7"),
    ("10.0.0.1", ("for=203.0.113.5, for=198.51.100.9",), (), "198.51.100.9"),
    ("10.0.0.1", ("for=unknown",), (), "10.0.0.1"),
    ("10.0.0.1", ("for=_hidden, for=10.9.9.9",), (), "10.9.9.9"),
    ("10.0.0.1", ("for=198.51.100.9",), ("198.51.100.9",), "198.51.100.9"),
    ("10.0.0.1", ("for=203.0.113.66",), ("198.51.100.9",), "10.0.0.1"),
    ("", ("for=203.0.113.66",), (), ""),
]


@pytest.mark.parametrize(("direct", "forwarded", "forwarded_for", "address"), SAID)
def test_the_peers_address(
    direct: str, forwarded: tuple[str, ...], forwarded_for: tuple[str, ...], address: str
) -> None:
    assert peer_address(direct, forwarded, forwarded_for, PROXIES) == address


def test_nobody_is_believed_where_no_proxy_is_trusted() -> None:
    assert peer_address("127.0.0.1", ("for=198.51.100.9",), ("198.51.100.9",), ()) == "127.0.0.1"


def test_only_so_many_proxies_are_looked_through() -> None:
    hops = ", ".join(["198.51.100.9", *(f"10.0.0.{number}" for number in range(200))])
    assert peer_address("10.0.0.1", (), (hops,), PROXIES).startswith("10.")


def test_a_site_counts_as_one() -> None:
    assert crowd_of("2001:db8:2:3::7") == crowd_of("2001:db8:2:3:ffff::1") == "2001:db8:2:3::/64"
    assert crowd_of("2001:db8:2:4::7") != crowd_of("2001:db8:2:3::7")
    assert crowd_of("192.0.2.7") == crowd_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert crowd_of("") == ""
