"""Access rules, roles and limits: which rule and which rights a caller has, and checks of what they allow."""

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address
from typing import Final

from pacs_server.config.model import Config
from pacs_server.config.rights import Rights
from pacs_server.config.sections.access_control import AccessControlConfig, PeerRule, PeerService
from pacs_server.dicom.caller import ANYBODY, Caller, Role
from pacs_server.dicom.scope import Scope
from pacs_server.errors import NotAuthorised

_NEEDED: Final[Mapping[PeerService, Role]] = {
    "echo": Role.READER,
    "find": Role.READER,
    "move": Role.READER,
    "get": Role.READER,
    "worklist": Role.READER,
    "store": Role.CONTRIBUTOR,
    "mpps": Role.CONTRIBUTOR,
    "commitment": Role.CONTRIBUTOR,
}
# They answer about UIDs, whoever's these are.
_WITHOUT_LIMITS: Final[frozenset[PeerService]] = frozenset({"mpps", "commitment"})


class Refusal(StrEnum):
    """Why no access rule lets a caller in."""

    CALLING_AE_TITLE = "calling_ae_title"
    PEER_ADDRESS = "peer_address"
    TLS_REQUIRED = "tls_required"
    PEER_CERTIFICATE = "peer_certificate"


def rule_for(caller: Caller, access: AccessControlConfig) -> PeerRule | Refusal:
    """The first rule that fits AE title, address, TLS and certificate; ANYBODY if no rule is about the AE title.

    A caller whose AE title has rules needs one that fits; `allowed_ae_titles` counts for the other AE titles only.
    """
    rules = [rule for rule in access.peers if _matches(caller.ae_title, rule.ae_title)] if access.peers else []
    if not rules:
        patterns = access.allowed_ae_titles
        allowed = "*" in patterns or any(_matches(caller.ae_title, pattern) for pattern in patterns)
        return ANYBODY if allowed else Refusal.CALLING_AE_TITLE
    rules = [rule for rule in rules if _comes_from(caller.address, rule)]
    if not rules:
        return Refusal.PEER_ADDRESS
    for rule in rules:
        if _is_secured(caller, rule):
            return rule
    return Refusal.PEER_CERTIFICATE if caller.tls else Refusal.TLS_REQUIRED


def rule_of_certificate(address: str, names: tuple[str, ...], access: AccessControlConfig) -> PeerRule | None:
    """The first rule for this address that names the certificate of a caller without an AE title; None without one."""
    for rule in access.peers:
        if rule.certificate and _comes_from(address, rule) and _is_certified(names, rule):
            return rule
    return None


def takes_certificates(config: Config) -> bool:
    """Whether somebody may log in over HTTP by a client certificate."""
    has_rule = any(rule.certificate for rule in config.access_control.peers)
    return config.web.tls.client_ca_path is not None and has_rule


def check_service(caller: Caller, service: PeerService) -> None:
    """Raise NotAuthorised unless the caller may use the service."""
    if service not in caller.rule.allow:
        raise NotAuthorised(f"this peer may not use the service {service}")
    if caller.role < _NEEDED[service] or (caller.scope.is_limited and service in _WITHOUT_LIMITS):
        raise NotAuthorised(f"this user may not use the service {service}")


def require(caller: Caller, role: Role) -> None:
    """Raise NotAuthorised unless the caller has this role, or one that may do more."""
    if caller.role < role:
        needed, had = role.name.lower(), caller.role.name.lower()
        raise NotAuthorised(f"this needs the role {needed} at least, and you have {had}")


def granted(rights: Rights) -> tuple[Role, Scope]:
    """Role and limits as a caller has them."""
    return Role[rights.role.upper()], Scope(rights.modalities, rights.ae_titles, rights.patients)


def check_destination(caller: Caller, title: str) -> None:
    """Raise NotAuthorised unless the caller may have instances sent to the AE `title`."""
    if not any(_matches(title, pattern) for pattern in caller.rule.move_destinations):
        raise NotAuthorised(f"this peer may not move to {title}")


def _comes_from(text: str, rule: PeerRule) -> bool:
    if not rule.addresses:
        return True
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # A socket for both address families shows an IPv4 caller as ::ffff:10.0.0.7.
        address = address.ipv4_mapped
    return any(address in network for network in rule.addresses)


def _is_secured(caller: Caller, rule: PeerRule) -> bool:
    if not rule.certificate:
        return caller.tls or not rule.require_tls
    return _is_certified(caller.certificate, rule)


def _is_certified(names: tuple[str, ...], rule: PeerRule) -> bool:
    # Certificates name hosts and mail addresses, which are the same in upper and lower case.
    return any(_matches(name.lower(), pattern.lower()) for name in names for pattern in rule.certificate)


def _matches(text: str, pattern: str) -> bool:
    # Only * and ? are special, because an AE title may hold brackets. PS3.5 6.2: AE titles are case sensitive.
    return fnmatchcase(text, pattern.replace("[", "[[]"))
