"""**The** table of attributes that the matches of a QIDO-RS search have (PS3.18 10.6.3.3)."""

from collections.abc import Iterable
from functools import lru_cache

from pacs_server.dicom.attributes import ATTRIBUTES, BY_KEYWORD, UNIQUE_KEYS
from pacs_server.dicom.identifier import level_of
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.levels import InformationModel, Level

# PS3.18 Tables 10.6.3-3 to 10.6.3-5. The identifiers of the levels above and the descriptions come on top, because
# nearly all clients want them.
_DEFAULTS = {
    Level.STUDY: """
        StudyDate StudyTime AccessionNumber ModalitiesInStudy ReferringPhysicianName TimezoneOffsetFromUTC
        StudyDescription PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyID
        NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances""",
    Level.SERIES: """
        Modality TimezoneOffsetFromUTC SeriesDescription SeriesInstanceUID SeriesNumber
        NumberOfSeriesRelatedInstances PerformedProcedureStepStartDate PerformedProcedureStepStartTime""",
    Level.IMAGE: """
        SOPClassUID SOPInstanceUID TimezoneOffsetFromUTC InstanceNumber Rows Columns BitsAllocated NumberOfFrames
        AvailableTransferSyntaxUID""",
}
_REQUEST_ATTRIBUTES = ReturnKey(
    BY_KEYWORD["RequestAttributesSequence"].tag,
    "SQ",
    # ScheduledProcedureStepID, RequestedProcedureID
    (ReturnKey(0x00400009, "SH"), ReturnKey(0x00401001, "SH")),
)
ONLY_IF_KNOWN = frozenset(
    BY_KEYWORD[keyword].tag
    for keyword in ("TimezoneOffsetFromUTC", "Rows", "Columns", "BitsAllocated", "NumberOfFrames")
)
"""The attributes that a match lacks if they have no value: "Shall be present if known"."""


# Clients repeat searches of a few forms. The longest lists are bounded by the length of a request.
@lru_cache(maxsize=256)
def returned(
    level: Level, above: Level | None, included: tuple[ReturnKey, ...], everything: bool
) -> tuple[ReturnKey, ...]:
    """The attributes of a match at `level`, in tag order.

    `above` is the lowest level that the path of the request names. Of the levels between it and `level` all default
    attributes are returned. `included` are asked for besides; those that lie below the level are left out (PS3.18
    10.6.3.3). `everything` asks for all attributes of the level.
    """
    unique = [_return_key(UNIQUE_KEYS[at]) for at in Level if Level.STUDY <= at <= level]
    defaults = [key for at in Level if at <= level and (above is None or at > above) for key in _defaults(at)]
    of_level = [ReturnKey(a.tag, a.vr) for a in ATTRIBUTES.values() if _level(a.tag) is level] if everything else []
    asked = [key for key in included if key.tag in ATTRIBUTES and _level(key.tag) <= level]
    found: dict[int, ReturnKey] = {}
    for key in (*unique, *defaults, *of_level, *asked):
        found[key.tag] = _merged(found[key.tag], key) if key.tag in found else key
    return tuple(found[tag] for tag in sorted(found))


def _defaults(level: Level) -> Iterable[ReturnKey]:
    keys = [_return_key(keyword) for keyword in _DEFAULTS.get(level, "").split()]
    return [*keys, _REQUEST_ATTRIBUTES] if level is Level.SERIES else keys


def _return_key(keyword: str) -> ReturnKey:
    attribute = BY_KEYWORD[keyword]
    return ReturnKey(attribute.tag, attribute.vr)


def _level(tag: int) -> Level:
    return level_of(ATTRIBUTES[tag], InformationModel.STUDY_ROOT)


def _merged(one: ReturnKey, other: ReturnKey) -> ReturnKey:
    """A key for all that both ask for; without items, a key asks for the whole sequence."""
    if not one.items or not other.items:
        return ReturnKey(one.tag, one.vr)
    items = {key.tag: key for key in one.items}
    for key in other.items:
        items[key.tag] = _merged(items[key.tag], key) if key.tag in items else key
    return ReturnKey(one.tag, one.vr, tuple(items[tag] for tag in sorted(items)))
