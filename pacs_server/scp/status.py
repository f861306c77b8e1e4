"""**The** table of statuses: which error is answered with which DIMSE status, by service (PS3.4, PS3.7 Annex C)."""

from pacs_server import errors
from pacs_server.dicom.status import Status
from pacs_server.errors import PacsError
from pacs_server.scp.contexts import Service

# PS3.4 Table F.7.2-2: Error ID (0000,0903) of a step that may no longer be updated.
STEP_MAY_NO_LONGER_BE_UPDATED = 0xA710

_USUAL: dict[type[PacsError], Status] = {
    errors.ConfigError: Status.PROCESSING_FAILURE,
    errors.InvalidInstance: Status.CANNOT_UNDERSTAND,
    errors.InstanceMismatch: Status.DOES_NOT_MATCH_SOP_CLASS,
    errors.InvalidIdentifier: Status.DOES_NOT_MATCH_SOP_CLASS,
    errors.DuplicateInstance: Status.DUPLICATE_SOP_INSTANCE,
    errors.InstanceNotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.FrameNotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.BulkDataNotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.StorageFull: Status.OUT_OF_RESOURCES,
    errors.StorageUnavailable: Status.OUT_OF_RESOURCES,
    errors.ObjectNotFound: Status.OUT_OF_RESOURCES,
    errors.FilesMissing: Status.OUT_OF_RESOURCES,
    errors.ObjectUnreadable: Status.OUT_OF_RESOURCES,
    errors.InvalidKey: Status.OUT_OF_RESOURCES,
    errors.ObjectExists: Status.OUT_OF_RESOURCES,
    errors.IndexUnavailable: Status.OUT_OF_RESOURCES,
    errors.SchemaError: Status.OUT_OF_RESOURCES,
    errors.UnknownMoveDestination: Status.MOVE_DESTINATION_UNKNOWN,
    errors.NotAuthorised: Status.NOT_AUTHORISED,
    errors.TranscodeError: Status.PROCESSING_FAILURE,
    errors.InvalidWorklistItem: Status.PROCESSING_FAILURE,
    errors.WorklistItemNotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.AttributeRefused: Status.INVALID_ATTRIBUTE_VALUE,
    errors.InvalidAttributeValue: Status.INVALID_ATTRIBUTE_VALUE,
    errors.MissingAttribute: Status.MISSING_ATTRIBUTE,
    errors.MissingAttributeValue: Status.MISSING_ATTRIBUTE_VALUE,
    errors.ProcedureStepClosed: Status.PROCESSING_FAILURE,
    errors.InvalidArgumentValue: Status.INVALID_ARGUMENT_VALUE,
    errors.InvalidObjectInstance: Status.INVALID_OBJECT_INSTANCE,
    errors.NoSuchAction: Status.NO_SUCH_ACTION,
    errors.NoSuchSOPClass: Status.NO_SUCH_SOP_CLASS,
    # Without an audit record nobody may see or store anything.
    errors.AuditUnavailable: Status.OUT_OF_RESOURCES,
    errors.UserError: Status.PROCESSING_FAILURE,
    errors.PatientError: Status.PROCESSING_FAILURE,
    errors.ResourceLimitation: Status.RESOURCE_LIMITATION,
    errors.TooLarge: Status.RESOURCE_LIMITATION,
    errors.WorklistItemChanged: Status.PROCESSING_FAILURE,
    errors.Conflict: Status.PROCESSING_FAILURE,
    errors.NotFound: Status.NO_SUCH_SOP_INSTANCE,
    errors.NotAcceptable: Status.PROCESSING_FAILURE,
    errors.UnsupportedSOPClass: Status.NO_SUCH_SOP_CLASS,
    errors.UnsupportedMediaType: Status.PROCESSING_FAILURE,
    errors.InvalidRequest: Status.PROCESSING_FAILURE,
    errors.RemoteError: Status.PROCESSING_FAILURE,
    errors.RemoteUnreachable: Status.PROCESSING_FAILURE,
    errors.RemoteBusy: Status.PROCESSING_FAILURE,
}
# A700 is a status of C-STORE, C-FIND, C-GET and C-MOVE only. The DIMSE-N services answer 0213 instead (PS3.7 Annex C).
_OF_N_SERVICES = {
    error: Status.RESOURCE_LIMITATION for error, status in _USUAL.items() if status is Status.OUT_OF_RESOURCES
}
_DIFFERENT: dict[Service, dict[type[PacsError], Status]] = {
    Service.MPPS: _OF_N_SERVICES,
    Service.MPPS_RETRIEVE: _OF_N_SERVICES,
    Service.COMMITMENT: _OF_N_SERVICES,
}
STATUS_OF: dict[Service, dict[type[PacsError], Status]] = {
    service: _USUAL | _DIFFERENT.get(service, {}) for service in Service
}
"""For each service the status of every error."""


def status_of(error: PacsError, service: Service) -> Status:
    """The status that answers `error` in a response of `service`."""
    return STATUS_OF[service][type(error)]
