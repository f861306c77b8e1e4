"""Let a peer in that was refused: the access rule for it, shown first and then written into the configuration file."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from pydantic import ValidationError

from pacs_server.audit.auditor import Auditor
from pacs_server.config.editing import add_rule, unwritable, with_rule
from pacs_server.config.model import Config
from pacs_server.config.sections.access_control import PeerRule, PeerService
from pacs_server.dicom.caller import Caller, Door
from pacs_server.errors import ConfigError, Conflict, InvalidRequest
from pacs_server.services.access import Refusal, rule_for

# A name that goes into a comment of the configuration file has nothing that could end the comment.
_LONGEST_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The rule for a peer.

    `lines` is the section of the configuration file that holds it, `file` the file, '' for none. `problem` says why it
    cannot be written by the server, '' if it can. `is_let_in` says whether the peer is let in already.
    """

    rule: PeerRule
    lines: tuple[str, ...]
    file: str
    problem: str
    is_let_in: bool


class PeerRules:
    """Suggests and adds access rules. Thread-safe."""

    def __init__(
        self,
        config: Callable[[], Config],
        reload: Callable[[], bool],
        auditor: Auditor,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`reload` has the server read its configuration again, and says whether it did."""
        self._config = config
        self._reload = reload
        self._auditor = auditor
        self._environ = environ

    def suggest(self, ae_title: str, address: str, allow: Sequence[PeerService], caller: Caller) -> Suggestion:
        """The rule that lets a peer in from one address, for these services. Raises InvalidRequest."""
        rule = _rule(ae_title, address, allow)
        lines, path = _lines(rule, caller), self._config().source
        section = ("access_control:", "  peers:", *(f"    {line}" for line in lines))
        file = "" if path is None else str(path.absolute())
        return Suggestion(rule, section, file, self._problem(rule, lines) or "", self._is_let_in(ae_title, address))

    def add(self, ae_title: str, address: str, allow: Sequence[PeerService], caller: Caller) -> Suggestion:
        """Write that rule into the configuration file, and have it read; `is_let_in` says whether it is in force.

        Raises InvalidRequest, Conflict if it cannot be written, AuditUnavailable.
        """
        found, path = self.suggest(ae_title, address, allow, caller), self._config().source
        if found.is_let_in:
            raise Conflict(f"{ae_title} is let in from {address} already")
        if found.problem or path is None:
            raise Conflict(found.problem)
        rule = found.rule
        what = f"access rule added to {path}: {rule.ae_title} from {address} may {', '.join(rule.allow)}"
        self._auditor.restricted(caller, what)
        try:
            add_rule(path, rule, _lines(rule, caller), self._environ)
        except ConfigError as error:
            raise Conflict(str(error)) from error
        self._reload()
        return Suggestion(rule, found.lines, found.file, "", self._is_let_in(ae_title, address))

    def _problem(self, rule: PeerRule, lines: Sequence[str]) -> str | None:
        path = self._config().source
        if path is None:
            return "the server was started without a configuration file"
        try:
            with_rule(path, rule, lines, self._environ)
        except ConfigError as error:
            return str(error)
        return unwritable(path)

    def _is_let_in(self, ae_title: str, address: str) -> bool:
        caller = Caller(Door.DIMSE, address, ae_title)
        return not isinstance(rule_for(caller, self._config().access_control), Refusal)


def _rule(ae_title: str, address: str, allow: Sequence[PeerService]) -> PeerRule:
    try:
        # In a rule, a star is a pattern that fits every title, and it may be in the AE title of a peer.
        values = {"ae_title": ae_title.replace("*", "?"), "addresses": [address], "allow": list(allow)}
        return PeerRule.model_validate(values, strict=False)
    except ValidationError:
        raise InvalidRequest("no rule can name this AE title (PS3.5 6.2) or this address") from None


def _short(network: IPv4Network | IPv6Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)


def _lines(rule: PeerRule, caller: Caller) -> list[str]:
    """The rule as an item of a list in YAML; JSON's texts are YAML's."""
    name = caller.user or ""
    by = f" by {name}" if name and name.isprintable() and len(name) <= _LONGEST_NAME else ""
    return [
        f"# Allowed{by} on {date.today():%Y-%m-%d}, from the page about refused peers.",
        f"- ae_title: {json.dumps(rule.ae_title)}",
        f"  addresses: [{', '.join(json.dumps(_short(each)) for each in rule.addresses)}]",
        f"  allow: [{', '.join(rule.allow)}]",
    ]
