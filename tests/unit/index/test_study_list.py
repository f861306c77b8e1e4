"""The list of studies: words, filters, columns and pages, on both databases."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from archives import SmallArchive
from plans import explained

from pacs_server.dicom.attributes import BY_KEYWORD
from pacs_server.dicom.scope import Scope
from pacs_server.index import study_terms
from pacs_server.index.mark_filter import MarkFilter
from pacs_server.index.marks import Mark, MarkIndex, MarkKind
from pacs_server.index.study_list import StudyListIndex
from pacs_server.index.study_order import ListPlace, StudyOrder
from pacs_server.index.study_terms import StudyFilter

UID = "1.2.826.0.1.3680043.8.498.7"
# ID, name, accession number, description, date, time, modality, station.
STUDIES = [
    ("P1", "Müller^Änne", "ACC-1", "CT Schädel nativ", "20260301", "0800", "CT", "CT_HAUS1"),
    ("P2", "Doe^Jane^^Dr", "ACC-2", "MR knee", "20260302", "0900", "MR", "MR_1"),
    ("p3", "Doe^John", "B.7", "CT chest 100%", "20260302", "1000", "CT", "CT_2"),
    ("Q4", "Smith^Ann=山田^太郎", "", "", "", "", "US", ""),
]


@pytest.fixture
def archive(tmp_path: Path, database_url: str) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, database_url)
    for number, (patient, name, accession, description, date, time, modality, station) in enumerate(STUDIES, 1):
        archive.study(
            2, SpecificCharacterSet="ISO_IR 192", PatientID=patient,
            PatientName=name, AccessionNumber=accession, StudyDescription=description,
            StudyDate=date, StudyTime=time, Modality=modality, StationName=station, StudyInstanceUID=f"{UID}.{number}",
        )  # fmt: skip
    yield archive
    archive.close()


def found(archive: SmallArchive, wanted: StudyFilter, place: ListPlace | None = None, scope: Scope = Scope()) -> str:  # noqa: B008
    """The numbers of the studies that are listed."""
    page = StudyListIndex(archive.database).page(
        wanted, place or ListPlace(10), (BY_KEYWORD["StudyInstanceUID"],), scope
    )
    return "".join(line.texts[0].rpartition(".")[2] for line in page.lines)


WORDS = {
    "": "3214",
    "doe": "32",
    "jane DOE": "2",
    "Doe^Jane": "2",
    "anne mull": "1",
    "schadel": "1",
    "Schädel mul": "1",
    "太郎": "4",
    "acc-": "21",
    "ACC-2": "2",
    "P3": "3",
    "b.7": "3",
    "ct": "31",
    "ct doe": "3",
    "100%": "3",
    "1%0": "",
    "ct zzz": "",
    f"{UID}.2": "2",
    f"{UID}.9": "",
    "'; --": "",
    "**": "3214",
}


@pytest.mark.parametrize("known", [20_000, 0], ids=["known", "asked"])
def test_words(archive: SmallArchive, monkeypatch: pytest.MonkeyPatch, known: int) -> None:
    monkeypatch.setattr(study_terms, "MOST_KNOWN", known)
    assert {text: found(archive, StudyFilter(text)) for text in WORDS} == WORDS


def label(archive: SmallArchive, number: str, *labels: str) -> None:
    now = datetime.now(UTC)
    MarkIndex(archive.database).apply([Mark(f"{UID}.{number}", MarkKind.LABEL, each, now, "ann") for each in labels])


@pytest.mark.parametrize("known", [20_000, 0])
def test_filters(archive: SmallArchive, monkeypatch: pytest.MonkeyPatch, known: int) -> None:
    monkeypatch.setattr(study_terms, "MOST_KNOWN", known)
    label(archive, "2", "teaching", "adrenal")
    label(archive, "4", "adrenal")
    year = datetime.now(UTC).strftime("%Y")
    filters = {
        StudyFilter(dates=("20260302", "20260302")): "32",
        StudyFilter(dates=("20260302", "")): "32",
        StudyFilter(dates=("", "20260301")): "1",
        StudyFilter(modalities=("CT", "US")): "314",
        StudyFilter(modalities=("XX",)): "",
        StudyFilter(stations=("MR_1",)): "2",
        StudyFilter(received=(f"{year}0101000000", "")): "3214",
        StudyFilter(received=("", f"{year}0101000000")): "",
        StudyFilter(marks=MarkFilter(("teaching",))): "2",
        StudyFilter("doe", ("20260302", ""), modalities=("CT",)): "3",
    }
    for order in StudyOrder:
        place = ListPlace(10, order, order is StudyOrder.NAME)
        got = {each: found(archive, each, place) for each in filters}
        assert {each: set(text) for each, text in got.items()} == {each: set(text) for each, text in filters.items()}


ORDERS = {
    StudyOrder.DATE: "4123",
    StudyOrder.NAME: "2314",
    StudyOrder.PATIENT_ID: "1243",
    StudyOrder.ACCESSION: "4123",
    StudyOrder.DESCRIPTION: "4132",
    StudyOrder.PHYSICIAN: "1234",
    StudyOrder.RECEIVED: "1234",
    StudyOrder.MODALITY: "1324",
}
# What has more than one text to sort by.
TEXTS = {StudyOrder.DATE: 2, StudyOrder.LABELS: 2}
# The least first and the most first: these are no reverse of each other.
BOTH_ORDERS = {
    StudyOrder.LABELS: ("32" + "14", "23" + "41"),
    StudyOrder.SERIES: ("1423", "2314"),
    StudyOrder.IMAGES: ("1423", "3214"),
}


def test_pages_follow_each_order_in_both_directions(archive: SmallArchive) -> None:
    archive.study(1, StudyInstanceUID=f"{UID}.2", PatientID="P2", PatientName="Doe^Jane^^Dr", Modality="MR")
    archive.study(3, StudyInstanceUID=f"{UID}.3", SeriesInstanceUID=f"{UID}.3", PatientID="p3", PatientName="Doe^John")
    label(archive, "3", "adrenal", "teaching")
    label(archive, "2", "thorax", "teaching")
    index = StudyListIndex(archive.database)
    for order in StudyOrder:
        for descending in (False, True):
            seen, after = "", None
            while lines := index.page(
                StudyFilter(), ListPlace(1, order, descending, after), (BY_KEYWORD["StudyInstanceUID"],)
            ).lines:
                seen += lines[0].texts[0].rpartition(".")[2]
                after = (lines[0].sorted_by, lines[0].id)
            both = BOTH_ORDERS.get(order) or (ORDERS[order], ORDERS[order][::-1])
            assert seen == both[descending], (order, descending)


def test_limits_hold_for_what_is_found_and_how(archive: SmallArchive) -> None:
    archive.study(1, StudyInstanceUID=f"{UID}.2", SeriesInstanceUID=f"{UID}.2.99", Modality="SR", StationName="SECRET",
                  PatientID="P2", PatientName="Doe^Jane^^Dr")  # fmt: skip
    only_mr = Scope(modalities=("MR",))
    archive.study(3, StudyInstanceUID=f"{UID}.3", SeriesInstanceUID=f"{UID}.3.1", Modality="MR",
                  PatientID="p3", PatientName="Doe^John")  # fmt: skip
    assert found(archive, StudyFilter(f"{UID}.2.99")) == "2"
    # Of what is seen there is more in the third study; of all there is more in the first one.
    for order in (StudyOrder.IMAGES, StudyOrder.MODALITY):
        assert found(archive, StudyFilter(), ListPlace(10, order), only_mr) == "32"
    after = ListPlace(10, StudyOrder.IMAGES, after=(("3",), 3))
    assert found(archive, StudyFilter(), after, only_mr) == "2"
    for wanted, studies in {
        StudyFilter(): "32",
        StudyFilter("doe"): "32",
        StudyFilter(f"{UID}.2"): "2",
        StudyFilter(f"{UID}.2.99"): "",
        StudyFilter(modalities=("SR",)): "",
        StudyFilter(modalities=("MR",)): "32",
        StudyFilter(stations=("SECRET",)): "",
        StudyFilter(stations=("MR_1",)): "2",
    }.items():
        assert found(archive, wanted, scope=only_mr) == studies, wanted


def test_what_can_be_chosen(archive: SmallArchive) -> None:
    choices = StudyListIndex(archive.database).choices(3)
    assert (choices.modalities, choices.stations, choices.labels) == (
        ["CT", "MR", "US"], ["CT_2", "CT_HAUS1", "MR_1"], [],
    )  # fmt: skip


def test_many_descriptions_are_found_by_their_beginning(archive: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_terms, "_DESCRIPTIONS", 2)
    assert found(archive, StudyFilter("CT")) == "31"
    assert found(archive, StudyFilter("knee")) == ""


def test_a_page_takes_few_statements_and_follows_an_index(
    archive: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plans(wanted: StudyFilter, place: ListPlace = ListPlace(10)) -> list[str]:  # noqa: B008
        with explained(archive.database, ("SELECT", "WITH")) as told:
            found(archive, wanted, place)
        return told

    # The descriptions and the studies of each word, then the page.
    assert [len(plans(StudyFilter(text))) for text in ("", "doe", "doe chest", f"{UID}.1", "zzz")] == [1, 3, 5, 2, 2]
    assert len(plans(StudyFilter("doe", ("20260101", ""), modalities=("CT",), stations=("CT_2",)))) == 6
    if not archive.database.is_sqlite:
        # With a few rows, PostgreSQL reads the table.
        return
    monkeypatch.setattr(study_terms, "MOST_KNOWN", 0)
    for order in StudyOrder:
        told = plans(StudyFilter(), ListPlace(10, order, after=(("2026",) * TEXTS.get(order, 1), 5)))
        assert len(told) == (2 if order is StudyOrder.LABELS else 1), order
        if order in (StudyOrder.SERIES, StudyOrder.IMAGES):
            # There is no index for what each stored instance changes: only numbers and ids are read and sorted.
            assert "SCAN study" in told[0], told
            assert told[0].count("patient") == 1, told
            continue
        assert re.search("SEARCH (study|patient|study_label) USING (COVERING )?INDEX ix_", told[0]), (order, told)
        assert not any("B-TREE FOR ORDER BY" in each for each in told), (order, told)
    # What is numbered is sorted with all conditions, and no id is sent for it.
    (plan,) = plans(StudyFilter(modalities=("CT",)), ListPlace(10, StudyOrder.IMAGES))[-1:]
    assert "SCAN study" in plan, plan
    # What a word means is looked up once among the patients, not for each study.
    plan = plans(StudyFilter("doe"), ListPlace(10, StudyOrder.RECEIVED))[-1]
    assert "LIST SUBQUERY" in plan, plan
    assert "SCAN patient USING COVERING INDEX ix_patient_patient_name_match" in plan, plan
    # What few fulfil is sorted by what it is sorted by only, and read then.
    monkeypatch.setattr(study_terms, "MOST_KNOWN", 20_000)
    plan = plans(StudyFilter(modalities=("CT",)), ListPlace(10, StudyOrder.DESCRIPTION))[-1]
    assert plan.count("patient") == 1, plan
    monkeypatch.setattr(study_terms, "MOST_KNOWN", 0)
    # What very many fulfil is asked of each in the order of the list: nothing is sorted.
    for wanted in (StudyFilter("doe"), StudyFilter(modalities=("CT",)), StudyFilter(received=("2026", ""))):
        assert "ix_study_newest" in (plan := plans(wanted)[-1]), plan
        assert "ORDER BY" not in plan
