"""A short list of changes to the attributes of an object on its way out, and the marks that it leaves on it.

The changes concern attributes at the top level of the data set, before the pixels. What was changed is told in the
object itself: Original Attributes Sequence holds the earlier values (PS3.3 C.12.1.1.9), and Contributing Equipment
Sequence names the archive that made the change (PS3.3 C.12.1.1.5). An object that an archive has changed is not changed
by it again: it has come back in a circle.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pacs_server.errors import InvalidRequest, TranscodeError

_IDENTIFIERS: Final = frozenset({"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"})
# Values of these VRs are text that a change can be written down for.
_TEXT_VRS: Final = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UR UT".split())
_PIXELS: Final = 0x7FE00000
# What changes may not touch: the elements that say how the data set and its pixels are encoded.
_ENCODING: Final = frozenset(
    "SpecificCharacterSet Rows Columns BitsAllocated BitsStored HighBit SamplesPerPixel PixelRepresentation "
    "PhotometricInterpretation PlanarConfiguration NumberOfFrames".split()
)


class Operation(StrEnum):
    """What is done to an attribute."""

    SET = "set"
    REMOVE = "remove"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    REPLACE = "replace"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class TagChange:
    """One change: `keyword` is the attribute that changes.

    `value` is the new value, what is put before or behind it, what replaces `old` in it, or the keyword of the
    attribute whose value it gets.
    """

    operation: Operation
    keyword: str
    value: str = ""
    old: str = ""

    def check(self) -> None:
        """Raise InvalidRequest, which says what is wrong, if nobody could make this change."""
        for keyword in (self.keyword, *([self.value] if self.operation is Operation.COPY else [])):
            _check_keyword(keyword)
        if self.operation in (Operation.PREFIX, Operation.SUFFIX, Operation.REPLACE) and not self._is_text:
            raise InvalidRequest(f"{self.keyword} is no text, so that nothing can be replaced in it")
        if self.operation is Operation.REPLACE and not self.old:
            raise InvalidRequest(f"what to replace in {self.keyword} is empty")
        if self.operation is Operation.SET and not self._is_text:
            raise InvalidRequest(f"{self.keyword} has values of VR {dictionary_VR(self.keyword)}, which are no text")
        if self.operation is Operation.SET:
            self._check_value()

    def _check_value(self) -> None:
        try:
            DataElement(Tag(self.keyword), dictionary_VR(self.keyword), self._values(), validation_mode=RAISE)
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"{self.value[:64]!r} is no value for {self.keyword}: {error}") from None

    def _values(self) -> str | list[str]:
        many = dictionary_VM(self.keyword) != "1" and "\\" in self.value
        return self.value.split("\\") if many else self.value

    @property
    def _is_text(self) -> bool:
        return dictionary_VR(self.keyword) in _TEXT_VRS

    def as_json(self) -> dict[str, str]:
        """The change as it is kept in a task."""
        told = {"operation": str(self.operation), "keyword": self.keyword, "value": self.value, "old": self.old}
        return {name: text for name, text in told.items() if text}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> "TagChange":
        """The change that `as_json` wrote."""
        return cls(Operation(kept["operation"]), kept["keyword"], kept.get("value", ""), kept.get("old", ""))

    def apply(self, data_set: Dataset) -> None:
        """Change a data set."""
        if self.operation is Operation.REMOVE:
            data_set.pop(Tag(self.keyword), None)
        elif self.operation is Operation.COPY:
            source = data_set.get(Tag(self.value))
            if source is not None:
                setattr(data_set, self.keyword, deepcopy(source.value))
        elif self.operation is Operation.SET:
            setattr(data_set, self.keyword, self._values())
        elif self.keyword in data_set and data_set[self.keyword].value not in (None, ""):
            value = data_set[self.keyword].value
            several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            changed = [self._edited(str(each)) for each in several]
            setattr(data_set, self.keyword, changed if len(changed) > 1 else changed[0])

    def _edited(self, text: str) -> str:
        if self.operation is Operation.PREFIX:
            return self.value + text
        return text + self.value if self.operation is Operation.SUFFIX else text.replace(self.old, self.value)


def _check_keyword(keyword: str) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise InvalidRequest(f"{keyword[:64]} is no keyword of PS3.6, such as InstitutionName")
    if keyword in _IDENTIFIERS or keyword in _ENCODING or tag >= _PIXELS or tag >> 16 < 0x0008:
        raise InvalidRequest(f"{keyword} cannot be changed: it identifies the object, or says how it is encoded")


@dataclass(frozen=True, slots=True)
class Modifier:
    """The archive that changes objects: its AE title, its id, which no other archive has, and its version."""

    ae_title: str
    archive_id: str
    version: str


def refuse_loop(data_set: Dataset, archive_id: str) -> None:
    """Raise TranscodeError if the archive of this id has changed the object before: it has come back in a circle."""
    items = data_set.get("ContributingEquipmentSequence") or ()
    if any(str(item.get("DeviceSerialNumber", "")) == archive_id for item in items):
        raise TranscodeError("a loop: this archive has changed the object before, and it has come back")


def mark(data_set: Dataset, by: Modifier, at: datetime | None, what: str) -> None:
    """Name the archive as an equipment that has modified the object; without `at`, not where and when it did."""
    item = Dataset()
    item.Manufacturer = "pacs-server"
    if at is not None:
        item.StationName = by.ae_title
        item.ContributionDateTime = f"{at:%Y%m%d%H%M%S.%f%z}"
    item.DeviceSerialNumber = by.archive_id
    item.SoftwareVersions = by.version
    item.ContributionDescription = what[:1024]
    purpose = Dataset()
    # PS3.16 CID 7005.
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109103", "DCM", "Modifying Equipment"
    item.PurposeOfReferenceCodeSequence = [purpose]
    data_set.ContributingEquipmentSequence = [*(data_set.get("ContributingEquipmentSequence") or ()), item]


def change(data_set: Dataset, changes: Iterable[TagChange], by: Modifier, at: datetime, *, keep: bool = True) -> None:
    """Make the changes; unless not to `keep` them, the earlier values go to Original Attributes Sequence.

    Raises TranscodeError if a value cannot be had.
    """
    wanted = list(changes)
    keywords = dict.fromkeys(each.keyword for each in wanted)
    before = {keyword: deepcopy(data_set[keyword]) for keyword in keywords if keyword in data_set}
    try:
        for each in wanted:
            each.apply(data_set)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise TranscodeError(f"cannot change attributes: {error}") from error
    changed = Dataset()
    for keyword, element in before.items():
        if keyword not in data_set or data_set[keyword].value != element.value:
            changed.add(element)
    if keep and len(changed):
        item = Dataset()
        item.ModifiedAttributesSequence = [changed]
        item.AttributeModificationDateTime = f"{at:%Y%m%d%H%M%S.%f%z}"
        item.ModifyingSystem = by.ae_title
        item.SourceOfPreviousValues = None
        item.ReasonForTheAttributeModification = "COERCE"
        data_set.OriginalAttributesSequence = [*(data_set.get("OriginalAttributesSequence") or ()), item]
