"""What became of associations, in plain words: why one was refused and what to do, and how one ended."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pacs_server.web.pages.languages import marked


@dataclass(frozen=True, slots=True)
class Explained:
    """Why something happened, and what to do about it, in English; templates translate both.

    `allowable` says whether an access rule for the peer would help.
    """

    why: str
    advice: str = ""
    allowable: bool = False


# By the name of the reason, as in the metrics.
REFUSALS: Final[Mapping[str, Explained]] = {
    "calling_ae_title": Explained(
        marked("No access rule is about this AE title."),
        marked("If the peer is one of yours, allow it. If it is not, there is nothing to do."),
        allowable=True,
    ),
    "peer_address": Explained(
        marked("The access rules know this AE title, and it comes from another address than they name."),
        marked("If the system has moved to this address, allow it. If not, somebody uses its AE title."),
        allowable=True,
    ),
    "tls_required": Explained(
        marked("The access rule of this peer asks for TLS, and the peer came without."),
        marked("Switch TLS on at the peer, or take require_tls out of its rule."),
    ),
    "peer_certificate": Explained(
        marked("The certificate of the peer is not one that its access rule names."),
        marked("Compare the names in the certificate with certificate in the rule of this peer."),
    ),
    "called_ae_title": Explained(
        marked("The peer calls this archive by another AE title."),
        marked("Correct the called AE title at the peer, or set server.check_called_ae_title to false."),
    ),
    "user_identity": Explained(
        marked("The peer sent no user and password that are known here."),
        marked("Correct user and password at the peer, or add the user."),
    ),
    "user_identity_attempts": Explained(
        marked("Too many wrong passwords came from there."),
        marked("Correct the password at the peer and wait for a minute."),
    ),
    "association_rate": Explained(
        marked("The address opens associations faster than access_control.association_rate allows."),
        marked("If the peer works correctly and is busy, raise association_rate or association_burst."),
    ),
    "associations": Explained(
        marked("As many associations were open as server.max_associations allows."),
        marked("The peer may try again. If this happens often, raise server.max_associations."),
    ),
    "associations_per_ae": Explained(
        marked("This AE title had as many associations open as it may have."),
        marked("The peer may try again. If this happens often, raise max_associations in its rule."),
    ),
    "connections": Explained(
        marked("As many connections were open as server.max_connections allows."),
        marked("Look which address holds many of them. If all are needed, raise server.max_connections."),
    ),
    "connections_per_address": Explained(
        marked("This address had as many connections open as one address may have."),
        marked("The peer may not close its connections. If all are needed, raise max_connections_per_address."),
    ),
    "tls_handshake": Explained(
        marked("The TLS handshake failed."),
        marked("Check that the peer speaks TLS on this port, trusts our certificate, and sends one if it has to."),
    ),
    "connection": Explained(
        marked("The connection broke before anything was asked for."),
        marked("A port scan or a monitor looks like that. If it is a modality, check the network in between."),
    ),
    "lost": Explained(
        marked("The peer connected and left without asking for an association."),
        marked("A port scan or a monitor looks like that. There is nothing to do."),
    ),
    "timeout": Explained(
        marked("The peer connected and did not ask for an association in time."),
        marked("Perhaps it speaks TLS to the port without TLS, or the network loses its packets."),
    ),
    "protocol": Explained(
        marked("What the peer sent is not DICOM."),
        marked("Perhaps a browser, or a system with the wrong port. Check the port at that system."),
    ),
    "application_context": Explained(
        marked("The peer asks for another protocol than DICOM."),
        marked("Its software does not fit. Ask its maker."),
    ),
    "protocol_version": Explained(
        marked("The peer speaks another version of the protocol."),
        marked("Its software does not fit. Ask its maker."),
    ),
    "shutting_down": Explained(
        marked("This server was about to stop."), marked("The peer tries again automatically, or somebody sends again.")
    ),
}
_UNKNOWN: Final = Explained(marked("It was refused."), marked("The log of the server says more."))

_ENDED_WELL: Final = marked("Ended normally.")
_ENDINGS: Final = (
    (r"released", _ENDED_WELL),
    (r"aborted by the peer", marked("The peer aborted the association.")),
    (r"connection closed by the peer", marked("The peer closed the connection without releasing the association.")),
    (r"connection (lost|closed)", marked("The network connection broke.")),
    (r"idle for", marked("The peer was silent for too long, so it was ended here.")),
    (r"no data from the peer in time|not finished in time|empty PDUs", marked("The peer was too slow, or has hung.")),
    (r"does not take what is sent", marked("The peer did not take what was sent to it.")),
    (r"server shuts down", marked("This server was stopped.")),
    (r"data set cut", marked("A stored object could not be read to its end. Verify the archive.")),
    (r"internal error", marked("A fault of this server ended it. The log says more; please report it.")),
)  # fmt: skip
_BROKE_RULES: Final = marked("The peer broke the rules of the protocol.")


def refusal(outcome: str) -> Explained:
    """Why an association was refused, by the name of the reason."""
    return REFUSALS.get(outcome, _UNKNOWN)


def ending(outcome: str) -> tuple[str, bool]:
    """How an association ended, in English, and whether that was in order."""
    for pattern, text in _ENDINGS:
        if re.search(pattern, outcome):
            return text, text is _ENDED_WELL
    return _BROKE_RULES, False
