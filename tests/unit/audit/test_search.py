"""Searching the audit trail from its end: the same records as from its beginning, in the other order."""

from dataclasses import replace
from datetime import date
from itertools import islice
from pathlib import Path
from unittest import mock

import pytest
from audits import an_event, clock

from pacs_server.audit import files, reader
from pacs_server.audit.events import EventID, Outcome, Participant
from pacs_server.audit.files import lines_back
from pacs_server.audit.search import Criteria, search, search_back
from pacs_server.audit.trail import open_trail
from pacs_server.config import AuditConfig

FIRST, SECOND, THIRD = "2026-03-01", "2026-03-02", "2026-03-03"


@pytest.fixture
def settings(tmp_path: Path) -> AuditConfig:
    settings = AuditConfig(directory=tmp_path / "audit")
    with open_trail(settings) as opened:
        for day in (FIRST, SECOND, THIRD, SECOND):  # the clock is set back at the end
            with clock(day):
                for number in range(7):
                    event = an_event(f"P{number % 3}")
                    if number == 4:
                        event = replace(event, outcome=Outcome.MINOR_FAILURE, event_id=EventID.QUERY)
                    if number == 5:
                        event = replace(event, participants=(Participant("ann", address="10.0.0.9"),))
                    opened.write(event, durable=False)
    return settings


@pytest.mark.parametrize(
    "criteria",
    [
        Criteria(),
        Criteria(patient_id="P1"),
        Criteria(user="ANN"),
        Criteria(address="10.0.0.9"),
        Criteria(event_id=EventID.QUERY),
        Criteria(without=EventID.QUERY),
        Criteria(user="Ann", failed=False),
        Criteria(patient_id="P1", event_id=EventID.QUERY, failed=True),
        Criteria(study_instance_uid="1.2.3"),
        Criteria(failed=True),
        Criteria(failed=False),
        Criteria(first=date(2026, 3, 2)),
        Criteria(last=date(2026, 3, 2)),
        Criteria(first=date(2026, 3, 1), last=date(2026, 3, 1)),
        Criteria(first=date(2026, 3, 4)),
    ],
    ids=str,
)
def test_backwards_is_forwards_turned_around(settings: AuditConfig, criteria: Criteria) -> None:
    with open_trail(settings) as opened:
        found = [record.sequence for record in search(opened, criteria)]
        assert [record.sequence for record in search_back(opened, criteria)] == found[::-1]
        assert found or criteria.first == date(2026, 3, 4)
        # Page by page too.
        pages: list[int] = []
        while more := list(islice(search_back(opened, criteria, pages[-1] if pages else None), 2)):
            pages += [record.sequence for record in more]
        assert pages == found[::-1]


def test_only_the_end_is_read_for_the_newest(settings: AuditConfig) -> None:
    with open_trail(settings) as opened:
        read = mock.Mock(wraps=opened.record_in)
        with mock.patch.object(opened, "record_in", read):
            (newest,) = islice(search_back(opened, Criteria()), 1)
        assert newest.sequence == opened.sequence
        assert read.call_count == 1


def test_a_page_about_a_patient_reads_a_study_once_and_no_record_before_its_place(tmp_path: Path) -> None:
    odd = 'a"b\\\u00e4'
    with open_trail(AuditConfig(directory=tmp_path / "audit")) as opened:
        for number in range(60):
            opened.write(an_event("P1", ("1.2.3", odd)[number % 2]), durable=False)
            opened.write(an_event("", "1.2.3"), durable=False)
            opened.write(an_event("P2", "1.2.4"), durable=False)
        read = mock.Mock(wraps=reader.read_record)
        with mock.patch.object(reader, "read_record", read):
            # Both studies of the patient, each in one record, and the two of the page.
            for before, found in ((None, [179, 178]), (100, [98, 97])):
                read.reset_mock()
                page = islice(search_back(opened, Criteria(patient_id="P1"), before), 2)
                assert [record.sequence for record in page] == found
                assert read.call_count == 4
            read.reset_mock()
            assert len(list(islice(search(opened, Criteria(patient_id="P1", address="10.0.0.8")), 2))) == 0
            assert read.call_count == 2


@pytest.mark.parametrize("size", [1, 7, 8, 1000])
@pytest.mark.parametrize("text", [b"", b"one\n", b"one\ntwo\n\nfour\n", b"one\ntorn", b"\r\n\x85\nx\n"])
def test_lines_are_read_from_the_end(tmp_path: Path, text: bytes, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(text)
    with mock.patch.object(files, "_BACK", size):
        found = list(lines_back(path))
    assert b"".join(data for _, _, data in reversed(found)) == text
    assert all(text[start:end] == data and data.count(b"\n") <= 1 for start, end, data in found)
    assert len(found) == text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
