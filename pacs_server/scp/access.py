"""Access rules: whose rule it is, and what the rule lets a peer do."""

from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address

from pacs_server.config.sections.access_control import AccessControlConfig, PeerRule, PeerService
from pacs_server.errors import NotAuthorised
from pacs_server.net.acceptor import Rejection
from pacs_server.net.peer import ANYBODY, Caller
from pacs_server.scp.contexts import Service

CALLING_AE_NOT_RECOGNIZED = Rejection(1, 1, 3, "calling_ae_title")
# Nothing is said of how near it came: to the peer it is a title that is not known there.
PEER_ADDRESS_NOT_RECOGNIZED = Rejection(1, 1, 3, "peer_address")
# PS3.8 Table 9-21 has no reason of its own for these: 1 is no-reason-given.
TLS_REQUIRED = Rejection(1, 1, 1, "tls_required")
PEER_CERTIFICATE_NOT_RECOGNIZED = Rejection(1, 1, 1, "peer_certificate")

# Which name of PeerRule.allow each service goes by.
PEER_SERVICES: dict[Service, PeerService] = {
    Service.VERIFICATION: "echo",
    Service.STORAGE: "store",
    Service.FIND: "find",
    Service.MOVE: "move",
    Service.GET: "get",
    Service.WORKLIST: "worklist",
    Service.MPPS: "mpps",
    Service.MPPS_RETRIEVE: "mpps",
    Service.COMMITMENT: "commitment",
}


def rule_for(calling_ae: str, caller: Caller, access: AccessControlConfig) -> PeerRule | Rejection:
    """The first rule that fits title, address, TLS and certificate, ANYBODY if there is none for the title.

    A title that has rules gets in by them alone; `allowed_ae_titles` is for the others.
    """
    rules = [rule for rule in access.peers if _matches(calling_ae, rule.ae_title)]
    if not rules:
        allowed = any(_matches(calling_ae, pattern) for pattern in access.allowed_ae_titles)
        return ANYBODY if allowed else CALLING_AE_NOT_RECOGNIZED
    rules = [rule for rule in rules if _comes_from(caller.address, rule)]
    if not rules:
        return PEER_ADDRESS_NOT_RECOGNIZED
    for rule in rules:
        if _is_secured(caller, rule):
            return rule
    return PEER_CERTIFICATE_NOT_RECOGNIZED if caller.tls else TLS_REQUIRED


def check_service(rule: PeerRule, service: Service) -> None:
    """Raise NotAuthorised unless `rule` allows the service."""
    name = PEER_SERVICES[service]
    if name not in rule.allow:
        raise NotAuthorised(f"this peer may not use the service {name}")


def check_destination(rule: PeerRule, title: str) -> None:
    """Raise NotAuthorised unless `rule` lets the peer move to the AE `title`."""
    if not any(_matches(title, pattern) for pattern in rule.move_destinations):
        raise NotAuthorised(f"this peer may not move to {title}")


def _comes_from(text: str, rule: PeerRule) -> bool:
    if not rule.addresses:
        return True
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # A socket for both families shows IPv4 peers as ::ffff:10.0.0.7.
        address = address.ipv4_mapped
    return any(address in network for network in rule.addresses)


def _is_secured(caller: Caller, rule: PeerRule) -> bool:
    if not rule.certificate:
        return caller.tls or not rule.require_tls
    # Names of hosts, mail addresses and the like: upper and lower case are the same in them.
    return any(_matches(name.lower(), pattern.lower()) for name in caller.certificate for pattern in rule.certificate)


def _matches(text: str, pattern: str) -> bool:
    # Only * and ? are special; an AE title may hold brackets. PS3.5 6.2: upper and lower case of titles differ.
    return fnmatchcase(text, pattern.replace("[", "[[]"))
