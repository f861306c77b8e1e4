"""Studies whose remote tells no modalities are known by their series."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.errors import RemoteError, RemoteUnreachable
from pacs_server.outbox.modalities import StudyModalities
from pacs_server.scu.search import Search

SERIES = {"1.1": ["CT", "SR"], "1.2": ["MR"], "1.3": [], "1.4": ["US"]}


class Remote:
    """A remote that is asked for series."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.modalities = StudyModalities(self.find, lambda: self.now)

    def find(self, remote: str, search: Search) -> Iterator[DataSet]:
        self.asked.append(search.keys["StudyInstanceUID"])
        if self.error is not None:
            raise self.error
        for modality in SERIES[self.asked[-1]]:
            yield {"00080060": {"vr": "CS", "Value": [modality]}}

    def answer(self, keys: dict[str, str], *studies: DataSet) -> list[tuple[str, str]]:
        """UID and modalities of the studies that are wanted."""
        asked = self.modalities.asked("there", keys)
        return [
            (text_of(each, "0020000D"), text_of(each, "00080061"))
            for each in (*asked.told(studies), *asked.asked_for())
        ]


def study(uid: str, *modalities: str, instances: str = "") -> DataSet:
    return {
        "0020000D": {"vr": "UI", "Value": [uid]},
        **({"00080061": {"vr": "CS", "Value": list(modalities)}} if modalities else {}),
        **({"00201208": {"vr": "IS", "Value": [instances]}} if instances else {}),
    }


def test_series_are_asked_where_a_study_tells_nothing() -> None:
    remote, studies = Remote(), [*map(study, SERIES), study("1.5", "CT")]
    found = remote.answer({"ModalitiesInStudy": "CT\\MR"}, *studies)
    # Whose series tell nothing either may be of these modalities.
    assert found == [("1.5", "CT"), ("1.1", "CT\\SR"), ("1.2", "MR"), ("1.3", "")]
    assert remote.asked == list(SERIES)
    # An hour later, or when it has grown, a study is asked for again.
    remote.answer({"ModalitiesInStudy": "US"}, *studies)
    assert remote.asked == list(SERIES)
    remote.answer({"ModalitiesInStudy": "CT"}, study("1.1", instances="7"))
    assert remote.asked[len(SERIES) :] == ["1.1"]
    remote.now += timedelta(hours=2)
    remote.answer({"ModalitiesInStudy": "CT"}, study("1.2"))
    assert remote.asked[len(SERIES) :] == ["1.1", "1.2"]


def test_nothing_is_asked_where_no_modality_matters() -> None:
    remote = Remote()
    assert len(remote.answer({"PatientID": "P1"}, study("1.1"), study("1.2", "MR"))) == 2
    assert remote.asked == []


def test_a_remote_that_cannot_be_asked_for_series_is_believed_and_one_that_is_away_is_not() -> None:
    remote = Remote()
    remote.error = RemoteError("no such service")
    assert remote.answer({"ModalitiesInStudy": "CT"}, study("1.2")) == [("1.2", "")]
    remote.error = RemoteUnreachable("gone")
    with pytest.raises(RemoteUnreachable):
        remote.answer({"ModalitiesInStudy": "CT"}, study("1.4"))
