"""**The** tree of errors: errors say what is wrong, the doors' tables say what to answer.

PacsError
|- ConfigError                a setting is missing, wrong or cannot work
|- InvalidInstance            the object cannot be understood or has unusable UIDs
|- InstanceMismatch           the object is not what the command said
|- InvalidIdentifier          a query or retrieve identifier breaks the model's rules
|- DuplicateInstance          another object is stored under this SOP Instance UID
|- InstanceNotFound           no such instance
|  |- FrameNotFound           no such frame, or no frames at all
|  |- BulkDataNotFound        no element of this path, or none with a value of bytes
|- StorageFull                not enough free space
|- StorageUnavailable         the storage does not take or give what it should
|  |- ObjectNotFound          nothing is stored under this key
|  |- ObjectUnreadable        the object under this key cannot be read; other objects may be
|  |- InvalidKey              no object can be stored under this name
|- FilesMissing               some of the stored files that were asked for together are not there
|- ObjectExists               an object is stored under this key already
|- IndexUnavailable           the database does not answer
|- SchemaError                the database schema does not fit this program
|- UnknownMoveDestination     no remote AE of that title
|- NotAuthorised              the peer may not do this
|- TranscodeError             no lossless way to the wanted transfer syntax
|- InvalidWorklistItem        a worklist item lacks or breaks what it needs
|- WorklistItemNotFound       no such worklist item
|- WorklistItemChanged        somebody else changed the worklist item meanwhile
|- AttributeRefused           an attribute of a request is not as it has to be
|  |- InvalidAttributeValue   it has a value that it may not have
|  |- MissingAttribute        it is needed and not there
|  |- MissingAttributeValue   it is empty and may not be
|- ProcedureStepClosed        the procedure step is over and may no longer be updated
|- InvalidArgumentValue       an argument of an action breaks its rules
|- InvalidObjectInstance      the action is for another object than the well-known one
|- NoSuchAction               the SOP class has no such action
|- NoSuchSOPClass             the request is for another SOP class than its context
|- AuditUnavailable           the audit trail cannot be written or read
|- PatientError               no such patient or study, or not to be changed so
|- UserError                  no such user, or one that cannot be kept
|- Conflict                   the thing is not in a state that allows what was asked for
|- ResourceLimitation         the request asks for more than can be handled
|  |- TooLarge                what is asked for is larger than can be made in memory, today and tomorrow
|- NotFound                   there is nothing of that name, or the caller may not see it
|- NotAcceptable              what was asked for cannot be had in a form that the client accepts
|- UnsupportedSOPClass        objects of this SOP class are not stored
|- UnsupportedMediaType       what was sent is of a kind that is not taken there
|- InvalidRequest             a request breaks the rules of its door
|- RemoteError                a remote refuses what was asked of it, or its answer cannot be used
|  |- RemoteUnreachable       it cannot be reached, does not answer in time, or does not accept this server
|  |- RemoteBusy              it asks to come back later
"""

from collections.abc import Sequence


class PacsError(Exception):
    """Everything this server raises on purpose; the message is fit for an operator."""


class ConfigError(PacsError):
    """A setting is missing, wrong or cannot work; says where it stands."""


class InvalidInstance(PacsError):
    """The object cannot be understood, or a UID that names it is unusable."""


class InstanceMismatch(PacsError):
    """The data set does not agree with the command that carried it."""


class InvalidIdentifier(PacsError):
    """An identifier breaks the rules of its information model."""


class DuplicateInstance(PacsError):
    """Other bytes are already stored under this SOP Instance UID."""


class InstanceNotFound(PacsError):
    """No such instance."""


class FrameNotFound(InstanceNotFound):
    """The instance has no frame of this number, or no frames at all."""


class BulkDataNotFound(InstanceNotFound):
    """The instance has no element of this path, or one whose value is items."""


class StorageFull(PacsError):
    """Not enough free space to keep the object."""


class StorageUnavailable(PacsError):
    """The storage does not take or give what it should."""


class ObjectNotFound(StorageUnavailable):
    """Nothing is stored under this key."""


class ObjectUnreadable(StorageUnavailable):
    """The object under this key cannot be read, which says nothing about other objects; `reason` is the system's."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class FilesMissing(PacsError):
    """Some of the stored files that were asked for together are missing or incomplete; says which, and of how many."""

    def __init__(self, message: str, *, instances: Sequence[str] = (), of: int = 0) -> None:
        """`instances` are the SOP Instance UIDs of those that are missing; `of` is how many were asked for."""
        super().__init__(message)
        self.instances = instances
        self.of = of


class InvalidKey(StorageUnavailable):
    """No object can be stored under this name."""


class ObjectExists(PacsError):
    """An object is stored under this key already; nothing was overwritten."""


class IndexUnavailable(PacsError):
    """The index does not answer; `uncertain` if it fell silent while it was to commit."""

    def __init__(self, message: str, *, uncertain: bool = False) -> None:
        super().__init__(message)
        self.uncertain = uncertain


class SchemaError(PacsError):
    """The database schema does not fit this program; says what to do."""


class UnknownMoveDestination(PacsError):
    """No remote AE of that title is configured."""


class NotAuthorised(PacsError):
    """The peer may not do this."""


class TranscodeError(PacsError):
    """There is no lossless way from the stored to the wanted transfer syntax."""


class InvalidWorklistItem(PacsError):
    """A worklist item lacks or breaks what it needs; says which attribute."""


class WorklistItemNotFound(PacsError):
    """No such worklist item."""


class WorklistItemChanged(PacsError):
    """Somebody else has changed the worklist item since it was read."""


class AttributeRefused(PacsError):
    """An attribute of a request is not as it has to be; `tag` says which, as eight hexadecimal digits, if known."""

    def __init__(self, message: str, *, tag: str = "") -> None:
        super().__init__(message)
        self.tag = tag


class InvalidAttributeValue(AttributeRefused):
    """An attribute of a request has a value that it may not have."""


class MissingAttribute(AttributeRefused):
    """A request lacks an attribute that it needs."""


class MissingAttributeValue(AttributeRefused):
    """An attribute of a request is empty and may not be."""


class ProcedureStepClosed(PacsError):
    """The performed procedure step is over and may no longer be updated (PS3.4 F.7.2.2.3)."""


class InvalidArgumentValue(PacsError):
    """An argument of an action breaks its rules."""


class InvalidObjectInstance(PacsError):
    """The action is for another object than the well-known one."""


class NoSuchAction(PacsError):
    """The SOP class has no such action."""


class NoSuchSOPClass(PacsError):
    """The request is for another SOP class than the one its presentation context is about."""


class AuditUnavailable(PacsError):
    """The audit trail cannot be written or read."""


class UserError(PacsError):
    """A user that is not there, is there already, or cannot be kept; says which."""


class PatientError(PacsError):
    """A patient or study that an operator named is not there, not the only one, or cannot be changed so."""

    def __init__(self, message: str, about: str = "") -> None:
        """`about` is the name, as it was given, that the error is about; empty if it is about no single one."""
        super().__init__(message)
        self.about = about


class Conflict(PacsError):
    """The thing that a request is about is not in a state that allows it; says which."""


class ResourceLimitation(PacsError):
    """The request asks for more than the server can handle, now or at all."""


class TooLarge(ResourceLimitation):
    """What is asked for is larger than can be made in memory: asking again does not help, another form may."""


class NotFound(PacsError):
    """There is nothing of that name, or the caller may not see it: the two are answered alike."""


class NotAcceptable(PacsError):
    """What was asked for cannot be had in any form that the client accepts."""


class UnsupportedSOPClass(PacsError):
    """Objects of this SOP class are not stored (`storage.accept_unknown_sop_classes`)."""


class UnsupportedMediaType(PacsError):
    """What was sent is of a media type or in a coding that is not taken there."""


class InvalidRequest(PacsError):
    """A request breaks the rules of its door; says which."""


class RemoteError(PacsError):
    """A remote refuses what was asked of it, or its answer cannot be used."""


class RemoteUnreachable(RemoteError):
    """A remote cannot be reached, does not answer in time, or does not accept this server: nothing can be had of it.

    `was_reached` says that it was reached and the connection broke then, which may be the fault of one request.
    """

    def __init__(self, message: str, *, was_reached: bool = False) -> None:
        super().__init__(message)
        self.was_reached = was_reached


class RemoteBusy(RemoteError):
    """A remote works, and asks to come back later; `seconds` says when, if it tells."""

    def __init__(self, message: str, *, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds
