"""The page about the storage, and what is counted for it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from datasets import make_ct
from restapi import STATUS
from rooms import Rooms
from servers import eventually

from pacs_server.dicom.caller import Role
from pacs_server.errors import ResourceLimitation
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.state import StateIndex
from pacs_server.services.statistics import Day
from pacs_server.upkeep.last_backup import LastBackup
from pacs_server.upkeep.verify import Verification, VerificationProgress, VerificationSources, begin
from pacs_server.web.pages.plots import HEIGHT, WIDTH, bars, growth, months

TODAY = date(2026, 3, 2)


@pytest.fixture
def rooms(tmp_path: Path, database_url: str) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path, None if database_url.startswith("sqlite") else database_url)
    yield rooms
    rooms.close()


def test_sizes_are_counted_by_study_and_by_day(rooms: Rooms) -> None:
    one, two = make_ct(PatientName="Roe^Jane"), make_ct(PatientName="Doe^John", PatientID="P2")
    more = make_ct(PatientName="Roe^Jane", StudyInstanceUID=one.StudyInstanceUID)
    rooms.store([one, two, more])
    rooms.act_as(Role.OPERATOR)
    assert eventually(lambda: rooms.get("/storage/statistics")["counted_at"])
    found = rooms.get("/storage/statistics")
    assert [each["study_instance_uid"] for each in found["largest"]] == [one.StudyInstanceUID, two.StudyInstanceUID]
    assert [each["instances"] for each in found["largest"]] == [2, 1]
    assert [each["instances"] for each in found["days"]] == [3]
    assert found["days"][0]["bytes"] == sum(each["bytes"] for each in found["largest"])
    page = rooms.page("/storage")
    assert "Roe, Jane" in page
    assert '<path class="line"' in page
    rooms.send("POST", "/trash", {"level": "study", "uid": one.StudyInstanceUID, "reason": "x"}, 201)
    assert "Roe, Jane" not in rooms.page("/storage")


def test_without_a_thread_nothing_is_counted_and_the_archive_can_be_closed(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(ResourceLimitation):
            rooms.archive.statistics.statistics()
    assert not rooms.archive.statistics.counting
    rooms.archive.statistics.stop()


def test_the_last_backup_is_told_and_cautioned_of(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms.act_as(Role.OPERATOR)
    assert rooms.get("/storage")["last_backup"] is None
    assert "knows of no backup" in rooms.page("/storage")
    made = LastBackup(time.time() - 6 * 86_400, "20260301", "/backup/<b>", 2, 1000, 0, verified=True)

    def shown(made: LastBackup) -> str:
        monkeypatch.setitem(STATUS, "backup", made.fields())
        return rooms.page("/storage")

    assert rooms.get("/storage")["last_backup"] is None
    page = shown(made)
    assert rooms.get("/storage")["last_backup"]["directory"] == "/backup/<b>"
    assert "6 days ago" in page
    assert "/backup/&lt;b&gt;" in page
    assert "older than a week" not in page
    assert "older than a week" in shown(replace(made, ended=made.ended - 2 * 86_400))
    assert "2 files are missing" in shown(replace(made, problems=2))


def test_damaged_and_missing_files_are_listed_with_their_studies(rooms: Rooms) -> None:
    lost, two, well = (
        make_ct(PatientName=name, StudyDescription="<b>Head</b>") for name in ("Roe^Jane", "Doe^John", "Poe^Edgar")
    )
    rooms.store([lost, two, well])
    rooms.act_as(Role.OPERATOR)
    page = rooms.page("/storage")
    assert "knows of no verification of all files" in page
    assert "Damaged and missing files" not in page
    paths = []
    for ds in (lost, two):
        found = rooms.archive.archive.find(str(ds.SOPInstanceUID))
        assert found is not None
        paths.append(rooms.directory / "archive" / found.path)
    paths[0].unlink()
    paths[1].chmod(0o600)
    paths[1].write_bytes(paths[1].read_bytes()[:-2] + b"xx")
    (rooms.directory / "archive" / "9.9").mkdir()
    (rooms.directory / "archive" / "9.9" / "strange<.dcm").write_bytes(b"x")
    index, state = IntegrityIndex(rooms.archive.database), StateIndex(rooms.archive.database)
    sources = VerificationSources(rooms.archive.files, index, state)
    begun = begin(state, VerificationProgress("now", None, None, True))
    run = Verification(sources, begun, lambda size: None, lambda progress: None)
    rooms.archive.faults.keep(run.run(), run.findings())
    page = rooms.page("/storage")
    listed = page.partition('<section id="faults">')[2].partition("</section>")[0]
    assert f'<a href="/studies/{lost.StudyInstanceUID}">Roe, Jane</a>' in listed
    assert f'<a href="/studies/{two.StudyInstanceUID}">Doe, John</a>' in listed
    assert "Poe" not in listed
    assert "&lt;b&gt;Head" in listed
    assert '<span class="tag bad">1 missing</span>' in listed
    assert '<span class="tag bad">1 changed</span>' in listed
    assert "9.9/strange&lt;.dcm" in listed
    assert '<span class="tag bad">3 faults</span>' in page
    assert rooms.get("/storage/faults")["last_verification"]["instances"] == 3
    rooms.send("POST", "/trash", {"level": "study", "uid": lost.StudyInstanceUID, "reason": "x"}, 201)
    assert "Roe" not in rooms.page("/storage").partition('<section id="faults">')[2].partition("</section>")[0]
    rooms.act_as(Role.READER)
    rooms.send("GET", "/storage/faults", status=403)


def test_growth_ends_at_the_total_and_today() -> None:
    days = [Day(TODAY - timedelta(days=back), 1, size) for back, size in ((10, 30), (9, 10), (2, 60))]
    area = growth(days, TODAY)
    assert area is not None
    assert (area.first, area.last, area.highest) == (TODAY - timedelta(days=11), TODAY, 100)
    assert area.line.startswith(f"M0.0,{HEIGHT} L")
    assert area.line.endswith(f"L{WIDTH},0.0")
    assert f"{WIDTH / 11:.1f},{HEIGHT * 0.7:.1f}" in area.line
    assert growth([], TODAY) is None


def test_bars_are_as_high_as_what_came() -> None:
    shown = bars([Day(TODAY, 1, 50), Day(TODAY - timedelta(days=1), 1, 100)], TODAY, 3)
    assert [(bar.day, bar.height) for bar in shown] == [
        (TODAY - timedelta(days=2), 0.0), (TODAY - timedelta(days=1), HEIGHT), (TODAY, HEIGHT / 2),
    ]  # fmt: skip


def test_months_are_added_up() -> None:
    days = [Day(date(2026, 1, 30), 1, 5), Day(date(2026, 2, 1), 2, 6), Day(date(2026, 2, 28), 3, 7)]
    assert [(month.day, month.instances, month.bytes) for month in months(days)] == [
        (date(2026, 2, 1), 5, 13), (date(2026, 1, 1), 1, 5),
    ]  # fmt: skip
