"""Studies without what identifies the patient: what that would change, and the instances for a ZIP file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pacs_server.dicom.attribute_changes import AttributeChange, Change, changes
from pacs_server.errors import TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.services.altering import AlteringService
from pacs_server.services.export import Packed
from pacs_server.services.routing import Alteration

# So many series are looked into: one instance of each is read.
MOST_SERIES: Final = 100
_ALTERATION: Final = Alteration(deidentify=True)


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """What happens to an attribute, with the first values that are met, and in how many series it is."""

    change: AttributeChange
    series: int


@dataclass(slots=True)
class Preview:
    """What de-identification does to a study, seen in one instance of each series.

    `refused` are the Series Instance UIDs of series whose instance cannot be de-identified, with the reason.
    """

    series: int = 0
    looked_at: int = 0
    rows: list[PreviewRow] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


class DeidentifyingService:
    """De-identifies whole studies; may be shared by all threads."""

    def __init__(self, altering: AlteringService) -> None:
        self._altering = altering

    def packed(self, instance: StoredInstance) -> Packed:
        """An instance for a ZIP file, without what identifies the patient. Opening raises TranscodeError."""
        uids, syntax = self._altering.describe(instance, _ALTERATION)
        return Packed(uids.sop, syntax, lambda: self._altering.deidentified(instance))

    def study_instance_uid(self, instance: StoredInstance) -> str:
        """The Study Instance UID that an instance has then."""
        return self._altering.describe(instance, _ALTERATION)[0].study

    @staticmethod
    def samples(instances: Sequence[StoredInstance]) -> list[StoredInstance]:
        """One instance of each series, of the first series if there are very many."""
        samples: dict[str, StoredInstance] = {}
        for instance in instances:
            samples.setdefault(instance.uids.series, instance)
        return list(samples.values())[:MOST_SERIES]

    def preview(self, instances: Sequence[StoredInstance]) -> Preview:
        """What happens to these instances; the samples of them are read. Raises StorageUnavailable."""
        found: dict[tuple[tuple[int, ...], Change], PreviewRow] = {}
        samples = self.samples(instances)
        preview = Preview(series=len({each.uids.series for each in instances}), looked_at=len(samples))
        for sample in samples:
            try:
                before, after = self._altering.before_and_after(sample)
            except TranscodeError as error:
                preview.refused.append((sample.uids.series, str(error)))
                continue
            _count(found, changes(before, after))
        preview.rows = sorted(found.values(), key=lambda row: row.change.path)
        return preview


def _count(found: dict[tuple[tuple[int, ...], Change], PreviewRow], of_series: Iterable[AttributeChange]) -> None:
    """Count the changes of one series, an attribute of several items once."""
    seen = set()
    for each in of_series:
        key = each.path, each.change
        if key in seen:
            continue
        seen.add(key)
        row = found.get(key)
        found[key] = PreviewRow(each, 1) if row is None else replace(row, series=row.series + 1)
