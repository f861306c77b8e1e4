"""Addresses of IPv4 in the form of IPv6, and subnets that are counted as one."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_server.kit.addresses import counted_as, plain_address


@given(st.ip_addresses(v=4))
def test_an_address_of_ipv4_is_the_same_in_every_form(address: IPv4Address) -> None:
    mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    assert {plain_address(text) for text in (str(address), f"::ffff:{address}", mapped.exploded)} == {str(address)}


@pytest.mark.parametrize("text", ["", "::1", "::", "2001:db8::1", "fe80::1%eth0", "::fffe:10.0.0.7", "unknown", "a:b"])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert plain_address(text) == text


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8:0:1:ffff::1%eth0", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_a_subnet_of_ipv6_is_counted_as_one(address: str, counted: str) -> None:
    assert counted_as(address) == counted
