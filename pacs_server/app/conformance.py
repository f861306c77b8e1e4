"""The DICOM conformance statement of the server as configured, in the layout of PS3.2 Annex N.

The sentences are in `conformance_template.md`. Every table and every number comes from the code that acts on it.
"""

from collections.abc import Iterable
from pathlib import Path
from string import Template

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_description
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from pacs_server import __version__
from pacs_server.app.conformance_web import table, web_values
from pacs_server.config.model import Config
from pacs_server.config.sections.tls import TLSConfig
from pacs_server.dicom import codecs, worklist_query
from pacs_server.dicom.attributes import ATTRIBUTES, UNIQUE_KEYS, Attribute
from pacs_server.dicom.commitment import PUSH_MODEL
from pacs_server.dicom.levels import Level
from pacs_server.dicom.matching import MAX_VALUES, WILDCARD_VRS
from pacs_server.dicom.status import Status
from pacs_server.dicom.tags import TIMEZONE_OFFSET_FROM_UTC
from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.dicom.worklist import SHOWN
from pacs_server.net import acceptor
from pacs_server.net.acceptor import Rejection
from pacs_server.net.negotiation import APPLICATION_CONTEXT
from pacs_server.scp.contexts import (
    QUERY_TRANSFER_SYNTAXES,
    SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    STORAGE_TRANSFER_SYNTAXES,
    WINDOW,
    Service,
    supports,
)
from pacs_server.scp.rejections import REJECTIONS
from pacs_server.scu.echo import VERIFICATION
from pacs_server.scu.find import PATIENT_ROOT, STUDY_ROOT, WORKLIST
from pacs_server.scu.retrieving import GET, MOVE

_TEMPLATE = Path(__file__).with_name("conformance_template.md")

# PS3.4 C.6.1.1.2 to C.6.1.1.5; the Patient ID is required in Study Root and unique in Patient Root.
_REQUIRED_KEYS = frozenset(
    {"PatientName", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "Modality", "SeriesNumber"}
    | {"InstanceNumber"}
)
# The services that readers look for. The table of presentation contexts says which of them the server offers.
_SERVICES = {
    "Verification": "1.2.840.10008.1.1",
    "Storage": "1.2.840.10008.5.1.4.1.1.2",
    "Query/Retrieve, Patient Root": "1.2.840.10008.5.1.4.1.2.1.1",
    "Query/Retrieve, Study Root": "1.2.840.10008.5.1.4.1.2.2.1",
    "Query/Retrieve, Patient/Study Only (retired)": "1.2.840.10008.5.1.4.1.2.3.1",
    "Storage Commitment Push Model": "1.2.840.10008.1.20.1",
    "Modality Worklist": "1.2.840.10008.5.1.4.31",
    "Modality Performed Procedure Step": "1.2.840.10008.3.1.2.3.3",
    "Unified Procedure Step - Push": "1.2.840.10008.5.1.4.34.6.1",
    "Instance Availability Notification": "1.2.840.10008.5.1.4.33",
    "Basic Grayscale Print Management": "1.2.840.10008.5.1.1.9",
}
# Of SOP classes other than those of storage: those that remotes are asked by.
_ASKED = {VERIFICATION, PATIENT_ROOT, STUDY_ROOT, WORKLIST, PUSH_MODEL, *GET, *MOVE}
_USER_IDENTITY = {
    "off": "off, the item is ignored; when on, user names with passcodes are checked",
    "optional": "a user name with a passcode is checked if it is sent",
    "required": "a user name with a passcode is checked, and required",
}

_REJECTIONS = {
    "application_context": "The application context name is not DICOM's.",
    "protocol_version": "Bit 0 of the protocol version is not set.",
    "calling_ae_title": "No rule of `access_control.peers` and no pattern of `access_control.allowed_ae_titles` fits "
    "the calling AE title.",
    "peer_address": "The calling AE title has rules in `access_control.peers`, and none fits the peer's address.",
    "tls_required": "The peer's rule requires TLS or a certificate, and the connection is without TLS.",
    "peer_certificate": "The peer's certificate has none of the names that its rule requires.",
    "called_ae_title": "`server.check_called_ae_title` is on and the called AE title is not the server's.",
    "user_identity": "`user_identity.mode` requires a user name with a passcode, and it is missing or wrong.",
    "user_identity_attempts": "Too many passcodes of this user or from this address were wrong. Try again later.",
    "association_rate": "The peer's address connects more often than `access_control.association_rate`. "
    "A later attempt may succeed.",
    "associations_per_ae": "The calling AE title has as many associations in force as its rule's `max_associations`, "
    "or else `access_control.max_associations_per_ae`, allows. A later attempt may succeed.",
    "associations": "`server.max_associations` associations are in force. A later attempt may succeed.",
}
_RESULTS = {1: "1, rejected permanent", 2: "2, rejected transient"}
_SOURCES = {1: "1, service user", 2: "2, service provider (ACSE)", 3: "3, service provider (presentation)"}

_SUB_OPERATIONS = {
    Status.SUCCESS: "Every matching instance was sent and accepted; also if nothing matched, with all counts zero.",
    Status.PENDING: "After each sub-operation while more remain, and after the only one of a C-MOVE; has the counts.",
    Status.CANCEL: "A C-CANCEL arrived; the counts, including *remaining*, say how far the operation got.",
    Status.SUBOPERATIONS_COMPLETE_WITH_FAILURES: "Some instances were accepted with a warning, or some failed and "
    "others did not. The identifier lists the failed SOP Instance UIDs, if there are any.",
    Status.UNABLE_TO_PERFORM_SUBOPERATIONS: "Every instance failed. The identifier lists them.",
    Status.DOES_NOT_MATCH_SOP_CLASS: "The identifier cannot be decoded or breaks the rules of the model.",
    Status.OUT_OF_RESOURCES: "The index does not answer. Try again later.",
}
_ANY_STEP = {
    Status.INVALID_OBJECT_INSTANCE: "The SOP Instance UID is not a valid UID.",
    Status.NO_SUCH_SOP_CLASS: "The SOP Class UID is not that of the presentation context.",
    Status.RESOURCE_LIMITATION: "The index does not answer: try again later. Or the data set is longer than 4 MiB.",
}
_STEP_ANSWERS = {
    **_ANY_STEP,
    Status.MISSING_ATTRIBUTE: "An attribute of type 1 is missing. Attribute Identifier List names it.",
    Status.MISSING_ATTRIBUTE_VALUE: "An attribute of type 1 is empty, or one that a finished step needs.",
    Status.PROCESSING_FAILURE: "The data set cannot be decoded, or the server has an internal error.",
}
_ANSWERS: dict[str, dict[Status, str]] = {
    "C-ECHO": {Status.SUCCESS: "The server answers."},
    "C-STORE": {
        Status.SUCCESS: "The instance and its index row are on stable storage, or the same instance was already "
        "stored, or the duplicate policy `ignore` dropped a different one under a known UID.",
        Status.DUPLICATE_SOP_INSTANCE: "A different instance is stored under this SOP Instance UID and the duplicate "
        "policy is `reject`. Sending it again does not help.",
        Status.OUT_OF_RESOURCES: "Free space is below `storage.min_free_space`, the disk or the index does not accept "
        "the instance, or memory ran out. The instance counts as not stored; try again later.",
        Status.DOES_NOT_MATCH_SOP_CLASS: "SOP Class or SOP Instance UID differ between data set, command and "
        "presentation context.",
        Status.CANNOT_UNDERSTAND: "The data set is missing or cannot be parsed, or a UID that names the instance is "
        "not valid.",
        Status.NO_SUCH_SOP_INSTANCE: "Under the policy `replace`: the instance to be replaced was removed meanwhile.",
    },
    "C-FIND": {
        Status.SUCCESS: "All matches were sent. No identifier.",
        Status.PENDING: "A match; every requested key is supported.",
        Status.PENDING_WITH_UNSUPPORTED_KEYS: "A match; some keys are not supported, were not matched and are absent.",
        Status.CANCEL: "A C-CANCEL arrived; no more matches follow.",
        Status.DOES_NOT_MATCH_SOP_CLASS: "The identifier cannot be decoded or breaks the rules of the model.",
        Status.OUT_OF_RESOURCES: "The index does not answer. Try again later.",
    },
    "C-MOVE": {
        **_SUB_OPERATIONS,
        Status.MOVE_DESTINATION_UNKNOWN: "The Move Destination is not in `remote_aes`.",
    },
    "C-GET": _SUB_OPERATIONS,
    "Worklist": {
        Status.SUCCESS: "All matches were sent. No identifier.",
        Status.PENDING: "A match; every requested key is supported.",
        Status.PENDING_WITH_UNSUPPORTED_KEYS: "A match; some keys are not supported, were not matched and are absent.",
        Status.CANCEL: "A C-CANCEL arrived; no more matches follow.",
        Status.DOES_NOT_MATCH_SOP_CLASS: "The identifier cannot be decoded, or a key breaks the rules of matching.",
        Status.OUT_OF_RESOURCES: "The index does not answer. Try again later.",
    },
    "N-CREATE": {
        **_STEP_ANSWERS,
        Status.SUCCESS: "The step is stored, and its worklist items are IN PROGRESS.",
        Status.DUPLICATE_SOP_INSTANCE: "A step with this SOP Instance UID exists already.",
        Status.INVALID_ATTRIBUTE_VALUE: "Performed Procedure Step Status is not IN PROGRESS, or a UID or a sequence is "
        "not valid. The Attribute List holds the attribute.",
    },
    "N-SET": {
        **_STEP_ANSWERS,
        Status.SUCCESS: "The step is changed, and its worklist items are updated.",
        Status.NO_SUCH_SOP_INSTANCE: "No step has this SOP Instance UID.",
        Status.INVALID_ATTRIBUTE_VALUE: "An attribute that may not be set would change, or the attribute may not have "
        "this value. The Modification List holds the attribute.",
        Status.PROCESSING_FAILURE: "With Error ID A710: the step has ended and may no longer be updated. Without it: "
        "the data set cannot be decoded, or the server has an internal error.",
    },
    "N-GET": {
        Status.SUCCESS: "The requested attributes; all of them if none was named.",
        Status.REQUESTED_OPTIONAL_ATTRIBUTES_NOT_SUPPORTED: "As success, but without attributes that no step has.",
        Status.NO_SUCH_SOP_INSTANCE: "No step has this SOP Instance UID.",
        **_ANY_STEP,
    },
    "N-ACTION": {
        Status.SUCCESS: "The transaction is durable, and will be reported.",
        Status.INVALID_ARGUMENT_VALUE: "Transaction UID or Referenced SOP Sequence are missing, empty or invalid, or "
        "the Transaction UID was used for another request.",
        Status.NO_SUCH_SOP_INSTANCE: "The Requested SOP Instance UID is not the well-known one.",
        Status.INVALID_OBJECT_INSTANCE: "The Requested SOP Instance UID is not a valid UID.",
        Status.NO_SUCH_SOP_CLASS: "The Requested SOP Class UID is not that of the presentation context.",
        Status.NO_SUCH_ACTION: "The Action Type ID is not 1.",
        Status.RESOURCE_LIMITATION: "Too many references, or the index does not answer. Nothing was kept.",
    },
    "any request": {
        Status.PROCESSING_FAILURE: "An internal error of the server. Its log has the details.",
        Status.UNRECOGNIZED_OPERATION: "The service is not offered.",
        Status.OUT_OF_RESOURCES: "Memory ran out.",
        Status.NOT_AUTHORISED: "The peer's rule in `access_control.peers` does not allow the service, or the "
        "destination of a C-MOVE. The data set was not examined.",
    },
}
_SUB_OPERATION_ANSWERS = {
    "0000": "Completed.",
    "0001, 0107, 0116, Bxxx": "Warning: the receiver has the instance.",
    "any other, or none": "Failed: the SOP Instance UID is added to the failed list. The next instance is sent.",
}
_DUPLICATES = {
    "reject": "refused with 0111",
    "replace": "stored in place of the old instance, whose file stays on disk under its own name",
    "ignore": "dropped and answered with success; the first instance stays",
}


def statement(config: Config) -> str:
    """The statement as Markdown, without a line break at the end. It holds no path, address or peer from `config`."""
    text = _TEMPLATE.read_text(encoding="utf-8")
    return Template(text).substitute(_settings(config) | _tables(config) | web_values(config)).rstrip("\n")


def _settings(config: Config) -> dict[str, str]:
    server, storage = config.server, config.storage
    patterns = ", ".join(f"`{pattern}`" for pattern in config.access_control.allowed_ae_titles)
    return {name: str(value) for name, value in server.model_dump().items()} | {
        "version": __version__,
        "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION_NAME,
        "application_context": APPLICATION_CONTEXT,
        "window": str(WINDOW),
        "called_rule": "must be this one" if server.check_called_ae_title else "may be any",
        "calling_patterns": patterns or "none",
        "user_identity": _USER_IDENTITY[config.user_identity.mode],
        **_tls(config.tls),
        "duplicate_policy": storage.duplicate_policy,
        "duplicate_text": _DUPLICATES[storage.duplicate_policy],
        "own_station": "on: a station finds" if config.worklist.only_own_station else "off; when on, a station finds",
        "worklist_groups": ", ".join(f"{group:04X}" for group in sorted(worklist_query.SUPPORTED_GROUPS)),
        "worklist_required": _names(worklist_query.REQUIRED),
        "worklist_step_required": _names(worklist_query.STEP_REQUIRED),
        "worklist_optional": _names(worklist_query.OPTIONAL),
        "worklist_step_optional": _names(worklist_query.STEP_OPTIONAL),
        "worklist_code": _names(worklist_query.CODE),
        "worklist_statuses_shown": " and ".join(SHOWN),
        "unknown_classes": "accepted" if storage.accept_unknown_sop_classes else "not accepted",
        "discontinued_text": "is SCHEDULED again" if config.worklist.discontinued_returns else "becomes DISCONTINUED",
        "same_association": "first tried on the association of the request"
        if config.commitment.same_association
        else "never sent on the association of the request",
        **{name: f"{value:g}" for name, value in config.commitment.model_dump(exclude={"same_association"}).items()},
        "fsync": "off, so that success does not mean durable" if storage.fsync == "off" else storage.fsync,
        "min_free_space": f"{storage.min_free_space:,}",
        "max_values": f"{MAX_VALUES:,}",
        "idle_timeout": f"{server.idle_timeout:g}",
        "association_timeout": f"{server.association_timeout:g}",
        "network_timeout": f"{server.network_timeout:g}",
        "message_timeout": f"{server.message_timeout:g}",
    }


def _names(keywords: Iterable[str]) -> str:
    """The attributes by the names of the Standard."""
    return ", ".join(dictionary_description(keyword) for keyword in keywords)


def _tls(tls: TLSConfig) -> dict[str, str]:
    port = "on `tls.port`, beside the plain port" if tls.port is not None else "on: only TLS connections are accepted"
    asked = "required" if tls.require_client_cert else "requested, and checked if the peer sends one"
    return {
        "tls": port if tls.enabled else "off",
        "tls_versions": "1.2 and 1.3" if tls.min_version == "1.2" else "1.3",
        "client_certificates": asked if tls.enabled and tls.ca_path is not None else "not requested",
    }


def _tables(config: Config) -> dict[str, str]:
    accept_unknown = config.storage.accept_unknown_sop_classes
    levels = {f"{level.name.lower()}_keys": _keys(level) for level in Level}
    statuses = {f"{_anchor(name)}_statuses": _statuses(answers) for name, answers in _ANSWERS.items()}
    return levels | statuses | {
        "services": _services(accept_unknown=accept_unknown),
        "storage_sop_classes": table(
            ("SOP Class", "UID"), ((_name(uid), uid) for uid in sorted(STORAGE_SOP_CLASSES, key=_name))
        ),
        "other_sop_classes": _other_sop_classes(),
        "storage_transfer_syntaxes": table(
            ("Transfer syntax", "UID", "Can be made uncompressed for a receiver"),
            ((_name(uid), uid, _decodable(uid)) for uid in STORAGE_TRANSFER_SYNTAXES),
        ),
        "query_transfer_syntaxes": table(
            ("Preference", "Transfer syntax", "UID"),
            ((str(n), _name(uid), uid) for n, uid in enumerate(QUERY_TRANSFER_SYNTAXES, 1)),
        ),
        "extended_negotiation": _extended_negotiation(),
        "rejections": _rejections(),
        "sub_operation_answers": table(("Status of the C-STORE", "Counted as"), _SUB_OPERATION_ANSWERS.items()),
        "character_sets": ", ".join(f"`{name}`" for name in sorted(python_encoding) if name),
    }  # fmt: skip


def _anchor(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def _name(uid: str) -> str:
    return str(UID(uid).name)


def _services(*, accept_unknown: bool) -> str:
    support = supports(accept_unknown=accept_unknown)
    offered = ((name, uid in _ASKED or name == "Storage", support(uid) is not None) for name, uid in _SERVICES.items())
    return table(("Service", "SCU", "SCP"), ((name, _yes(scu), _yes(scp)) for name, scu, scp in offered))


def _yes(value: bool) -> str:
    return "Yes" if value else "No"


def _other_sop_classes() -> str:
    rows = ((entry.name, uid, entry.service.value, _yes(uid in _ASKED), "Yes") for uid, entry in SOP_CLASSES.items())
    return table(("SOP Class", "UID", "Service", "SCU", "SCP"), rows)


def _decodable(uid: str) -> str:
    """Whether an object in this transfer syntax can be sent uncompressed.

    The answer is for an installation with all dependencies, and does not depend on the codecs of this machine.
    """
    if uid in QUERY_TRANSFER_SYNTAXES or (codecs.is_available(uid) and uid not in _NEEDS_EXTRA):
        return "Yes"
    if uid in _NEEDS_EXTRA:
        return "Yes, with the extra `codecs`"
    try:
        get_decoder(UID(uid))
    except NotImplementedError:
        return "No"
    return "Yes"


_NEEDS_EXTRA = frozenset(codecs.DECODER_DEPENDENCIES) - {UID("1.2.840.10008.1.2.4.50")}


def _extended_negotiation() -> str:
    support = supports(accept_unknown=False)
    kinds = {entry.service: uid for uid, entry in SOP_CLASSES.items()}
    kinds[Service.STORAGE] = next(iter(STORAGE_SOP_CLASSES))
    rows = []
    for service, uid in kinds.items():
        found = support(uid)
        if found is not None and found.extended is not None:
            rows.append((service.value, " ".join(str(byte) for byte in found.extended)))
    return table(("Service", "Service class application information at most"), rows)


def _rejections() -> str:
    known = (*vars(acceptor).values(), *REJECTIONS)
    rejections = sorted(
        {each for each in known if isinstance(each, Rejection)}, key=lambda r: (r.result, r.source, r.reason, r.name)
    )
    return table(
        ("Result", "Source", "Reason", "When"),
        ((_RESULTS[r.result], _SOURCES[r.source], str(r.reason), _REJECTIONS[r.name]) for r in rejections),
    )


def _keys(level: Level) -> str:
    rows = (
        (
            f"({attribute.tag >> 16:04X},{attribute.tag & 0xFFFF:04X})",
            dictionary_description(attribute.tag),
            attribute.vr,
            _key_type(attribute),
            _matching(attribute),
        )
        for attribute in ATTRIBUTES.values()
        if attribute.level is level
    )
    return table(("Tag", "Attribute", "VR", "Type", "Matching, besides universal"), rows)


def _key_type(attribute: Attribute) -> str:
    if attribute.keyword in UNIQUE_KEYS.values():
        return "U"
    return "R" if attribute.keyword in _REQUIRED_KEYS else "O"


def _matching(attribute: Attribute) -> str:
    if attribute.tag == TIMEZONE_OFFSET_FROM_UTC or (attribute.computed and attribute.vr == "IS"):
        return "none, returned only"
    if attribute.vr == "SQ":
        return "sequence"
    if attribute.vr in ("DA", "TM", "DT"):
        return "single value, range"
    if attribute.vr == "PN":
        return "single value, wild card, fuzzy"
    if attribute.vr == "UI":
        return "single value, list of UID"
    return "single value, wild card" if attribute.vr in WILDCARD_VRS else "single value"


def _statuses(answers: dict[Status, str]) -> str:
    return table(
        ("Status", "Name", "When, and what it means"),
        ((f"{status:04X}", status.name.replace("_", " ").lower(), text) for status, text in sorted(answers.items())),
    )
