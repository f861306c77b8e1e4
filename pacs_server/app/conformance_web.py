"""The tables of the conformance statement about DICOM web services, from the tables by which the HTTP door acts."""

from collections.abc import Iterable, Mapping
from typing import Final

from pydicom.datadict import dictionary_description

from pacs_server.config.model import Config
from pacs_server.dicom.levels import Level
from pacs_server.dicom.search_attributes import ONLY_IF_KNOWN, returned
from pacs_server.dicom.status import Status
from pacs_server.kit.multipart import MAX_HEAD_BYTES
from pacs_server.web.dicomweb.resources import BASE
from pacs_server.web.dicomweb.store_report import COERCED, FAILURE_REASONS, IGNORED, SOP_CLASS_NOT_SUPPORTED
from pacs_server.web.dicomweb.storing import MOST_PARTS
from pacs_server.web.dicomweb.storing_metadata import METADATA_LIMIT
from pacs_server.web.dicomweb.transactions import TRANSACTIONS, Transaction
from pacs_server.web.status import STATUS_OF

Rows = Iterable[tuple[str, ...]]

# The web services that readers look for (PS3.2 N.1.3), each with the section of PS3.18 whose transactions are it.
_SERVICES: Final = {
    "URI Web Service (WADO-URI)": "9",
    "Studies Service, Retrieve Transaction (WADO-RS)": "10.4",
    "Studies Service, Store Transaction (STOW-RS)": "10.5",
    "Studies Service, Search Transaction (QIDO-RS)": "10.6",
    "Worklist Service (UPS-RS)": "11",
    "Non-Patient Instance Service": "12",
    "Storage Commitment Service": "13",
}
# Those of which the server is a user agent too, by scu/dicomweb.
_CLIENT: Final = ("10.4", "10.5", "10.6")
_ANSWERS: Final[dict[str, dict[int, str]]] = {
    "search": {
        200: "The matches; in JSON an empty list if there are none. A Warning header with code 299 names the parts of "
        "the request that were ignored, and says how many more matches there are than `limit` allows.",
        204: "There are no matches, in XML.",
        400: "A parameter has an invalid value.",
    },
    "retrieve": {
        200: "The requested resource.",
        206: "The range that the header Range requests. Or: instances are left out that cannot be sent in the "
        "requested transfer syntaxes.",
        304: "It has not changed (If-None-Match, If-Modified-Since).",
        400: "A parameter or a frame number is invalid.",
        404: "The resource does not exist, or this user may not see it.",
        416: "The range begins after the end.",
    },
    "store": {
        200: "All instances are stored.",
        202: "Some instances are stored, and others are not, or there is a warning.",
        400: "The body does not agree with its headers, or holds no instance.",
        409: "No instance is stored.",
        413: "The body is longer than `web.max_body`. Instances that were read before that are stored.",
        415: "The media type or content coding of the body is not accepted.",
        503: "No instance is stored, because storage, index or audit trail is not available. Try again later.",
        507: "No instance is stored, because the storage is full. Try again later.",
    },
    "delete": {
        204: "It is in the trash.",
        404: "Nothing with these UIDs exists, or this user may not see it.",
    },
    "any": {
        400: "The request breaks the rules of HTTP or of the service.",
        401: "The request needs a login.",
        403: "The user's role or limits do not allow this, or a page of another origin sent the request.",
        404: "The resource does not exist.",
        405: "The resource does not have this method. The header Allow names its methods.",
        406: "The client accepts no media type or transfer syntax in which it can be sent, or the answer is too large.",
        409: "The request conflicts with the present state.",
        412: "The resource has changed meanwhile.",
        415: "The media type or content coding of the body is not accepted.",
        421: "The Host header names another server.",
        500: "An internal error of the server. Its log has the details.",
        502: "Another archive that is needed for the answer refuses, or its answer cannot be used.",
        503: "The index or the storage is not available, or the server is too busy. Try again later.",
        504: "Another archive that is needed for the answer cannot be reached, or does not answer in time.",
        507: "The storage is full. Try again later.",
    },
}
_FAILURES: Final[dict[int, str]] = {
    Status.OUT_OF_RESOURCES: "The storage is full, or storage, index or audit trail is not available.",
    Status.DOES_NOT_MATCH_SOP_CLASS: "The instance belongs to another study than the one of the URL.",
    Status.CANNOT_UNDERSTAND: "The part is not a DICOM file, cannot be parsed, or its bulk data is missing; or the "
    "body is incomplete.",
    Status.DUPLICATE_SOP_INSTANCE: "A different instance is stored under this SOP Instance UID, and the duplicate "
    "policy is `reject`.",
    Status.NO_SUCH_SOP_INSTANCE: "Under the policy `replace`: the instance to be replaced was removed meanwhile.",
    SOP_CLASS_NOT_SUPPORTED: "The SOP class is not a storage SOP class, or is unknown and "
    "`storage.accept_unknown_sop_classes` is off.",
    Status.NOT_AUTHORISED: "The instance is outside the limits of the user.",
    Status.PROCESSING_FAILURE: "Anything else.",
}
_WARNINGS: Final = {
    COERCED: "The File Meta Information named another instance than the data set; the data set counts.",
    IGNORED: "Under the policy `ignore`: a different instance is stored under this SOP Instance UID, and it stays.",
}


def web_values(config: Config) -> dict[str, str]:
    """What the template needs, by name."""
    return {
        "web_services": _services(),
        "web_transactions": _transactions(),
        **{f"{name}_media_types": _media_types(section) for name, section in _SECTIONS.items()},
        "store_request_media_types": ", ".join(f"`{each}`" for each in _takes()),
        "search_attributes": _search_attributes(),
        **{f"web_{name}_statuses": table(("Code", "Meaning"), _statuses(found)) for name, found in _ANSWERS.items()},
        "failure_reasons": table(("Failure Reason", "When"), _reasons(_FAILURES)),
        "warning_reasons": table(("Warning Reason", "When"), _reasons(_WARNINGS)),
        "max_parts": f"{MOST_PARTS:,}",
        "max_part_head": f"{MAX_HEAD_BYTES // 1024} KiB",
        "max_metadata": f"{METADATA_LIMIT >> 20} MiB",
        "web_enabled": "on" if config.web.enabled else "off",
        "web_port": str(config.web.port),
        "web_max_connections": str(config.web.max_connections),
        "web_max_body": f"{config.web.max_body:,} bytes" if config.web.max_body else "no limit but the disk",
        "web_tls": "on: only HTTPS is accepted" if config.web.tls.enabled else "off",
    }


_SECTIONS: Final = {"uri": "9", "retrieve": "10.4", "store": "10.5", "search": "10.6"}


def table(head: tuple[str, ...], rows: Rows) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _services() -> str:
    sections = {transaction.section for transaction in TRANSACTIONS.values()}
    return table(
        ("Service", "User agent", "Origin server"),
        (
            (name, "Yes" if section in _CLIENT else "No", "Yes" if section in sections else "No")
            for name, section in _SERVICES.items()
        ),
    )


def _transactions() -> str:
    return table(
        ("Transaction", "Method", "Resource", "PS3.18"),
        (
            (each.name, method, f"`{_resource(path)}`", each.section or "none, an extension")
            for (method, path), each in TRANSACTIONS.items()
        ),
    )


def _resource(path: str) -> str:
    return path.removeprefix(BASE).replace(":path", "")


def _media_types(section: str) -> str:
    """The media types of the answers, for each group of transactions that have the same."""
    groups: dict[tuple[str, ...], list[Transaction]] = {}
    for transaction in TRANSACTIONS.values():
        if transaction.section == section:
            groups.setdefault(transaction.answers, []).append(transaction)
    return table(
        ("Transactions", "Media types of the answer"),
        (
            (", ".join(each.name for each in group), ", ".join(f"`{each}`" for each in answers))
            for answers, group in groups.items()
        ),
    )


def _takes() -> tuple[str, ...]:
    [takes] = {each.takes for each in TRANSACTIONS.values() if each.section == _SECTIONS["store"]}
    return takes


def _search_attributes() -> str:
    rows = []
    for level, above in ((Level.STUDY, None), (Level.SERIES, Level.STUDY), (Level.IMAGE, Level.SERIES)):
        for key in returned(level, above, (), everything=False):
            tag = f"({key.tag >> 16:04X},{key.tag & 0xFFFF:04X})"
            known = "if it is known" if key.tag in ONLY_IF_KNOWN else "always"
            rows.append((level.name, tag, dictionary_description(key.tag), known))
    return table(("Level", "Tag", "Attribute", "Returned"), rows)


def _statuses(found: Mapping[int, str]) -> Rows:
    return ((str(code), text) for code, text in sorted(found.items()))


def _reasons(found: Mapping[int, str]) -> Rows:
    return ((f"{code:04X}", text) for code, text in sorted(found.items()))


def undocumented() -> set[int]:
    """Statuses and Failure Reasons by which the HTTP door answers errors and that no table here tells."""
    statuses = {int(status) for status in STATUS_OF.values()}
    reasons = {int(reason) for reason in FAILURE_REASONS.values()} | {int(Status.PROCESSING_FAILURE)}
    return (statuses - _ANSWERS["any"].keys()) | (reasons ^ {int(reason) for reason in _FAILURES})
