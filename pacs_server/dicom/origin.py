"""The origin of a stored instance: who sent it, from where, and through which door."""

from dataclasses import dataclass

from pacs_server.dicom.caller import Caller, Door


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent an instance and how; `peer` is a network address, or a path if the instance was imported from a file.

    `move_originator` is the AE title that had it sent, by C-MOVE or by fetching it; '' if the peer sent it by itself.
    """

    calling_ae: str
    called_ae: str
    peer: str
    via: Door
    move_originator: str = ""


def origin_of(caller: Caller) -> Origin:
    """The origin of the instances that `caller` sends."""
    return Origin(caller.ae_title, caller.called_ae, caller.address, caller.door)
