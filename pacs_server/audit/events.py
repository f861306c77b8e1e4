"""Audit events as values, in the terms of PS3.15 A.5, and the protocol of what keeps them.

Beside the archive itself, the audit trail is the only place that holds patient IDs. Nothing of an event may be logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

from pacs_server.dicom.subject import Subject


class EventID(Enum):
    """The kind of an event: code and meaning of PS3.16 CID 400."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    AUDIT_LOG_USED = ("110101", "Audit Log Used")
    BEGIN_TRANSFERRING = ("110102", "Begin Transferring DICOM Instances")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
    STUDY_DELETED = ("110105", "DICOM Study Deleted")
    EXPORT = ("110106", "Export")
    IMPORT = ("110107", "Import")
    ORDER_RECORD = ("110109", "Order Record")
    PATIENT_RECORD = ("110110", "Patient Record")
    PROCEDURE_RECORD = ("110111", "Procedure Record")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")


class EventType(Enum):
    """What exactly happened: code and meaning of PS3.16 CID 401."""

    APPLICATION_START = ("110120", "Application Start")
    APPLICATION_STOP = ("110121", "Application Stop")
    LOGIN = ("110122", "Login")
    LOGOUT = ("110123", "Logout")
    NODE_AUTHENTICATION = ("110126", "Node Authentication")
    SECURITY_CONFIGURATION = ("110129", "Security Configuration")
    SOFTWARE_CONFIGURATION = ("110131", "Software Configuration")
    USE_OF_RESTRICTED_FUNCTION = ("110132", "Use of Restricted Function")
    AUDIT_RECORDING_STOPPED = ("110133", "Audit Recording Stopped")
    AUDIT_RECORDING_STARTED = ("110134", "Audit Recording Started")
    USER_SECURITY_ATTRIBUTES_CHANGED = ("110137", "User security Attributes Changed")


class Action(Enum):
    """Event Action Code (PS3.15 A.5.1)."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(IntEnum):
    """Event Outcome Indicator (PS3.15 A.5.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


class Role(Enum):
    """The role of a participant in an event: code and meaning of PS3.16 CID 402."""

    APPLICATION = ("110150", "Application")
    APPLICATION_LAUNCHER = ("110151", "Application Launcher")
    DESTINATION = ("110152", "Destination Role ID")
    SOURCE = ("110153", "Source Role ID")
    DESTINATION_MEDIA = ("110154", "Destination Media")


@dataclass(frozen=True, slots=True)
class Participant:
    """A person, machine or program that took part in an event.

    `user_id` is a user name or, without one, an AE title. `ae_title` and `address` say where the participant was.
    The `requestor` is the participant who caused the event. `role` is None if the Standard names no role.
    """

    user_id: str
    ae_title: str = ""
    address: str = ""
    role: Role | None = None
    requestor: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    `subjects` are the studies that the event is about, with their patients. `query` maps the keywords of the matching
    keys of a query to their values. `sop_class_uid` names the service. `detail` is a short text for people: what failed
    and why, or what was changed.
    """

    event_id: EventID
    action: Action
    participants: tuple[Participant, ...]
    outcome: Outcome = Outcome.SUCCESS
    event_type: EventType | None = None
    subjects: tuple[Subject, ...] = ()
    sop_class_uid: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""


class Audit(Protocol):
    """Keeps events."""

    def write(self, event: Event, *, durable: bool = True) -> None:
        """Keep an event. From then on it outlives a killed process and, if `durable`, a power loss.

        Without `durable` the event is on the disk about a second later. Raises AuditUnavailable.
        """


class NoAudit:
    """Keeps nothing, for servers whose audit trail is off."""

    def write(self, event: Event, *, durable: bool = True) -> None:
        """Drop the event."""
