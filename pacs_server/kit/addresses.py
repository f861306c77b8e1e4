"""Addresses of hosts as the network shows them."""

from ipaddress import IPv6Address, ip_network
from typing import Final

# The smallest subnet of IPv6.
_PREFIX: Final = 64


def plain_address(text: str) -> str:
    """An address of IPv4 without the form of IPv6 in which a socket for both shows it; any other text as it is.

    RFC 4291 2.5.5.2: ::ffff:10.0.0.7 is 10.0.0.7.
    """
    if ":" not in text:
        return text
    try:
        mapped = IPv6Address(text.partition("%")[0]).ipv4_mapped
    except ValueError:
        return text
    return text if mapped is None else str(mapped)


def counted_as(address: str) -> str:
    """The address, or the subnet of an IPv6 address: whoever has one of its addresses has all of them."""
    if ":" not in address:
        return address
    try:
        ip = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ip_network((ip, _PREFIX), strict=False))
