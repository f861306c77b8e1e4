"""Whose rule it is, and what it lets a peer do."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_server.config import AccessControlConfig, PeerRule
from pacs_server.config.sections.access_control import PeerService
from pacs_server.dicom.caller import ANYBODY, Caller, Door
from pacs_server.errors import NotAuthorised
from pacs_server.services.access import Refusal, check_destination, check_service, rule_for


def from_(address: str, title: str = "CT1", **more: object) -> Caller:
    return Caller(Door.DIMSE, address, title, "PACS", **more)  # type: ignore[arg-type]


PLAIN = from_("10.1.0.7")


def peer(title: str, *addresses: str, **settings: object) -> PeerRule:
    return PeerRule(ae_title=title, addresses=tuple(map(ip_network, addresses)), **settings)  # type: ignore[arg-type]


def under(rule: PeerRule) -> Caller:
    return replace(PLAIN, rule=rule)


def found(caller: Caller, *rules: PeerRule, allowed: tuple[str, ...] = ("*",)) -> PeerRule | Refusal:
    return rule_for(caller, AccessControlConfig(peers=rules, allowed_ae_titles=allowed))


def test_the_first_rule_that_fits_title_and_address_wins() -> None:
    rules = (
        peer("MR*"),
        peer("CT1", "10.9.0.0/16", allow=("echo",)),
        peer("CT*", "10.1.0.7/32", allow=("store",)),
        peer("CT1", allow=("find",)),
    )
    assert found(PLAIN, *rules) is rules[2]
    assert found(from_("10.9.1.1"), *rules) is rules[1]
    assert found(from_("192.168.0.1"), *rules) is rules[3]
    assert found(from_("192.168.0.1", "CT2"), *rules) is Refusal.PEER_ADDRESS


def test_a_title_with_rules_gets_in_by_them_alone() -> None:
    """Although the list of allowed titles has it."""
    rules = (peer("CT1", "10.9.0.0/16"),)
    assert found(PLAIN, *rules) is Refusal.PEER_ADDRESS
    assert found(from_("10.1.0.7", "ct1"), *rules) is ANYBODY
    assert found(from_("10.1.0.7", "CT2"), *rules, allowed=("MR",)) is Refusal.CALLING_AE_TITLE
    assert found(from_("10.1.0.7", "CT2"), *rules, allowed=()) is Refusal.CALLING_AE_TITLE


def test_tls_where_it_is_required() -> None:
    rules = (peer("CT1", require_tls=True),)
    assert found(PLAIN, *rules) is Refusal.TLS_REQUIRED
    assert found(from_("10.1.0.7", tls=True), *rules) is rules[0]
    # The next rule that fits may ask for less.
    rules = (*rules, peer("CT1", allow=("echo",)))
    assert found(PLAIN, *rules) is rules[1]


@pytest.mark.parametrize(
    ("names", "pattern", "fits"),
    [
        (("CT1.hospital.example",), "ct1.hospital.EXAMPLE", True),
        (("Scanner", "ct1.hospital.example"), "*.hospital.example", True),
        (("hospital.example",), "*.hospital.example", False),
        (("ct1",), "ct[1]", False),
        (("ct[1]",), "ct[1]", True),
        ((), "*", False),
    ],
)
def test_names_of_certificates(names: tuple[str, ...], pattern: str, fits: bool) -> None:
    rule = peer("CT1", certificate=("other", pattern))
    caller = from_("10.1.0.7", tls=True, certificate=names)
    assert found(caller, rule) is (rule if fits else Refusal.PEER_CERTIFICATE)


def test_a_certificate_is_not_dispensed_with_by_coming_without_tls() -> None:
    assert found(PLAIN, peer("CT1", certificate=("*",))) is Refusal.TLS_REQUIRED


@pytest.mark.parametrize(
    ("address", "network", "fits"),
    [
        ("10.1.255.255", "10.1.0.0/16", True),
        ("10.2.0.0", "10.1.0.0/16", False),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        ("::ffff:10.2.2.3", "10.1.0.0/16", False),
        ("::10.1.2.3", "10.1.0.0/16", False),
        ("2001:db8::7", "2001:db8::/64", True),
        ("2001:db8:0:1::7", "2001:db8::/64", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("10.1.2.3", "::/0", False),
        ("2001:db8::7", "0.0.0.0/0", False),
    ],
)
def test_addresses(address: str, network: str, fits: bool) -> None:
    rule = peer("*", "192.0.2.1/32", network)
    assert found(from_(address), rule) is (rule if fits else Refusal.PEER_ADDRESS)


TITLES = st.sampled_from(["A", "AB", "B", "*", "A*", "?", "A?", "a"])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.1.1", "::1", "::ffff:10.0.0.1"])
NETWORKS = st.lists(st.sampled_from(["10.0.0.0/24", "10.0.0.0/8", "::1/128"]), max_size=2)
RULES = st.lists(st.builds(lambda t, n, s: peer(t, *n, require_tls=s), TITLES, NETWORKS, st.booleans()), max_size=4)


@given(TITLES, ADDRESSES, st.booleans(), RULES, st.lists(TITLES, max_size=2))
def test_whoever_gets_in_fits_a_rule_or_is_allowed_and_no_rule_is_theirs(
    title: str, address: str, tls: bool, rules: list[PeerRule], allowed: list[str]
) -> None:
    caller = from_(address, title, tls=tls)
    result = found(caller, *rules, allowed=tuple(allowed))
    alone = [found(caller, rule, allowed=()) for rule in rules]
    fitting = [rule for rule, answer in zip(rules, alone, strict=True) if answer is rule]
    if fitting:
        assert result is fitting[0]
    elif result is ANYBODY:
        assert set(alone) <= {Refusal.CALLING_AE_TITLE}
        assert found(caller, allowed=tuple(allowed)) is ANYBODY
    else:
        assert isinstance(result, Refusal)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_an_ipv4_address_is_the_same_peer_on_a_socket_for_both_families(number: int, base: int, prefix: int) -> None:
    address, rule = IPv4Address(number), peer("*", str(ip_network((base, prefix), strict=False)))
    mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    assert found(from_(str(address)), rule) == found(from_(str(mapped)), rule)
    # As it is written with a dotted quad, too.
    assert found(from_(str(address)), rule) == found(from_(f"::ffff:{address}"), rule)


@pytest.mark.parametrize("service", get_args(PeerService))
def test_services(service: PeerService) -> None:
    check_service(PLAIN, service)
    check_service(under(peer("A", allow=(service,))), service)
    others = tuple(other for other in get_args(PeerService) if other != service)
    for allow in (others, ()):
        with pytest.raises(NotAuthorised, match=f"may not use the service {service}"):
            check_service(under(peer("A", allow=allow)), service)


def test_destinations() -> None:
    caller = under(peer("A", move_destinations=("WS*", "REVIEW")))
    for title in ("WS1", "REVIEW"):
        check_destination(caller, title)
        check_destination(PLAIN, title)
    for title in ("review", "REVIEW2", "AWS1", ""):
        with pytest.raises(NotAuthorised, match=f"may not move to {title}"):
            check_destination(caller, title)
