"""Modality Worklist queries: decodes identifiers, matches items, and encodes the responses (PS3.4 K.4.1, K.6.1).

A worklist item is one data set in the DICOM JSON Model, so its keys are matched like those of a sequence item. Unlike
in Query/Retrieve, an unknown value does not match (K.2.2.1.1.1). Only some keys are matched: the required ones and
a list of optional ones. The value of any other key is ignored, so that it is a return key (K.2.2.1.1.2).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydicom.datadict import dictionary_has_tag, tag_for_keyword

from pacs_server.dicom.json_codec import ReturnKey, encode_item
from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.keys import (
    Identifier,
    Key,
    date_time_range,
    decode_identifier,
    item_key,
    key_texts,
    return_keys,
    strict_items,
    value_of,
)
from pacs_server.dicom.matching import DateTimeSpan, Items
from pacs_server.dicom.tags import SPECIFIC_CHARACTER_SET, TIMEZONE_OFFSET_FROM_UTC
from pacs_server.dicom.text_encoder import Encode
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE, SCHEDULED_PROCEDURE_STEP_STATUS, ItemStatus
from pacs_server.dicom.writer import writer_for

_STEP_SEQUENCE = int(SCHEDULED_PROCEDURE_STEP_SEQUENCE, 16)
_START_DATE, _START_TIME = 0x00400002, 0x00400003
SUPPORTED_GROUPS = frozenset({0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040})
"""The groups of the attributes in Table K.6-1. Keys in other groups are not supported."""

STEP_REQUIRED = (
    *("ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "Modality"),
    "ScheduledPerformingPhysicianName",
)
"""The required matching keys of Table K.6-1 in Scheduled Procedure Step Sequence."""
STEP_OPTIONAL = (
    *("ScheduledProcedureStepDescription", "ScheduledStationName", "ScheduledProcedureStepLocation"),
    *("ScheduledProtocolCodeSequence", "ScheduledProcedureStepID", "ScheduledProcedureStepStatus"),
)
"""The optional matching keys of Table K.6-1 in Scheduled Procedure Step Sequence that are matched here."""
REQUIRED = ("PatientName", "PatientID")
"""The other required matching keys of Table K.6-1."""
OPTIONAL = (
    *("AccessionNumber", "StudyInstanceUID", "RequestedProcedureID", "RequestedProcedureDescription"),
    *("RequestedProcedureCodeSequence", "RequestedProcedurePriority", "RequestingPhysician", "ReferringPhysicianName"),
    *("AdmissionID", "CurrentPatientLocation", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    "ResponsiblePerson",
)
"""The other optional matching keys of Table K.6-1 that are matched here.

They say which patient, order or place is meant. Attributes that describe the patient (weight, pregnancy, allergies) are
not among them: devices send such attributes with a placeholder, which matches nobody.
"""
CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
"""The matching keys in the code sequences."""


class _Matched:
    """Which keys are matched at one place of a query; `inside` has the same for the items of sequences."""

    def __init__(self, keywords: Iterable[str], **inside: "_Matched") -> None:
        self.tags = frozenset(filter(None, map(tag_for_keyword, (*keywords, *inside))))
        self.inside = {tag_for_keyword(keyword): matched for keyword, matched in inside.items()}


_CODE = _Matched(CODE)
_STEP = _Matched((*STEP_REQUIRED, *STEP_OPTIONAL), ScheduledProtocolCodeSequence=_CODE)
_MATCHED = _Matched((*REQUIRED, *OPTIONAL), ScheduledProcedureStepSequence=_STEP, RequestedProcedureCodeSequence=_CODE)


@dataclass(frozen=True, slots=True)
class WorklistQuery:
    """A worklist query; `start` is the range of the scheduled start if its date and time are matched as a pair.

    `unsupported` lists the tags of keys that are not supported. `texts` holds the keys that were sent with a value,
    keyword to value.
    """

    keys: Items
    start: DateTimeSpan | None
    returns: tuple[ReturnKey, ...]
    unsupported: tuple[int, ...]
    specific_character_set: str
    texts: Mapping[str, str] = field(default_factory=dict, compare=False)

    def matches(self, data_set: Mapping[str, Any]) -> bool:
        """Whether an item matches all keys."""
        if self.start is not None:
            step = data_set[SCHEDULED_PROCEDURE_STEP_SEQUENCE]["Value"][0]
            date, time = text_of(step, "00400002"), text_of(step, "00400003")
            if not self.start.matches(date, time, unknown=False):
                return False
        return self.keys.matches_item(dict(data_set))


def parse_worklist(data: bytes, transfer_syntax_uid: str) -> WorklistQuery:
    """The query in a worklist identifier; raises InvalidIdentifier."""
    identifier = decode_identifier(data, transfer_syntax_uid)
    known = sorted(identifier.keys)
    asked = [key for key in known if _is_supported(key)]
    unsupported = {key.tag for key in known} - {key.tag for key in asked}
    returns = return_keys(asked)
    start, matched = _split_off_start(list(_matching_keys(asked, _MATCHED)))
    found = (item_key(key, fuzzy=False) for key in matched)
    # PS3.4 K.2.2.1.1.1: unknown values do not match.
    keys = strict_items(Items(tuple(key for key in found if key is not None), unknown=False))
    charset, sent = identifier.specific_character_set, dict(key_texts(known))
    return WorklistQuery(keys, start, returns, tuple(sorted(unsupported)), charset, sent)


def _is_supported(key: Key) -> bool:
    in_groups = key.tag >= SPECIFIC_CHARACTER_SET and key.tag >> 16 in SUPPORTED_GROUPS
    return in_groups and bool(dictionary_has_tag(key.tag))


def _matching_keys(keys: Iterable[Key], matched: _Matched) -> Iterator[Key]:
    """The keys whose values are matched. Those that are sequences hold only such keys."""
    for key in keys:
        if key.tag not in matched.tags:
            continue
        inside = matched.inside.get(key.tag)
        if key.items is None or inside is None:
            yield key
        else:
            items = ({inner.tag: inner for inner in _matching_keys(item.keys, inside)} for item in key.items)
            yield key._replace(items=tuple(map(Identifier, items)))


def _split_off_start(asked: list[Key]) -> tuple[DateTimeSpan | None, list[Key]]:
    """The range of the scheduled start if its date and time can be matched as a pair, and the remaining keys."""
    for at, key in enumerate(asked):
        if key.tag != _STEP_SEQUENCE or key.items is None or len(key.items) != 1:
            continue
        (item,) = key.items
        start = _start_range(item)
        if start is not None:
            rest = {tag: inner for tag, inner in item.attributes.items() if tag not in (_START_DATE, _START_TIME)}
            step = key._replace(items=(Identifier(rest),))
            return start, [*asked[:at], step, *asked[at + 1 :]]
    return None, asked


def _start_range(item: Identifier) -> DateTimeSpan | None:
    date, time = (item.attributes.get(tag) for tag in (_START_DATE, _START_TIME))
    if date is None or time is None:
        return None
    # PS3.4 Table K.6-1: July 5 to July 7 and 10 to 18 o'clock is one range, from July 5, 10:00 to July 7, 18:00.
    return date_time_range(("ScheduledProcedureStepStart",) * 2, value_of(date), value_of(time))


def presented(data_set: DataSet, status: ItemStatus) -> DataSet:
    """An item as queries match and return it: with its current status in Scheduled Procedure Step Status."""
    step = data_set[SCHEDULED_PROCEDURE_STEP_SEQUENCE]["Value"][0]
    # PS3.3 C.4.10: the defined terms are those of the scheduled step, not of the performed one.
    if status is ItemStatus.IN_PROGRESS:
        term = "STARTED"
    else:
        term = text_of(step, SCHEDULED_PROCEDURE_STEP_STATUS) or "SCHEDULED"
    step = {**step, SCHEDULED_PROCEDURE_STEP_STATUS: {"vr": "CS", "Value": [term]}}
    return {**data_set, SCHEDULED_PROCEDURE_STEP_SEQUENCE: {"vr": "SQ", "Value": [step]}}


class WorklistEncoder:
    """Encodes the matches of one query with its return keys.

    A sequence is returned as a whole unless the query names attributes of its items.
    """

    def __init__(self, query: WorklistQuery, transfer_syntax_uid: str) -> None:
        self._query = query
        self._writer = writer_for(transfer_syntax_uid)
        self._attempts = self._writer.attempts(query.specific_character_set)

    def encode(self, data_set: DataSet) -> bytes:
        """The response identifier of one match."""
        item = _matching_part(data_set, self._query.keys)
        returns = self._query.returns
        # PS3.4 C.4.1.1.3.2: the time zone is never sent with zero length.
        if "00080201" not in item:
            returns = tuple(key for key in returns if key.tag != TIMEZONE_OFFSET_FROM_UTC)
        return self._writer.encoded(self._attempts, partial(self._elements, item, returns))

    def _elements(self, item: DataSet, returns: tuple[ReturnKey, ...], encode: Encode) -> bytes:
        # `encode_item` would encode all attributes if it got no keys.
        return encode_item(self._writer, item, returns, encode) if returns else b""


def _matching_part(data_set: DataSet, keys: Items) -> dict[str, Any]:
    """The item, with only the matching items in the sequences that the keys name (PS3.4 C.2.2.2.6)."""
    part = dict(data_set)
    for key in keys.keys:
        if isinstance(key.matcher, Items):
            tag = f"{key.tag:08X}"
            items = data_set.get(tag, {}).get("Value", [])
            found = [_matching_part(item, key.matcher) for item in items if key.matcher.matches_item(item)]
            part[tag] = {"vr": "SQ", "Value": found}
    return part
