"""Verification finds what is wrong, all of it and nothing else, and repair mends it without removing a byte."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from archives import SmallArchive
from datasets import make_ct, make_study

from pacs_server.errors import PacsError, StorageUnavailable
from pacs_server.upkeep import verify as module
from pacs_server.upkeep.checking import Finding, FindingKind
from pacs_server.upkeep.verify import Verification, VerificationProgress, begin, unfinished


@pytest.fixture
def small(tmp_path: Path, database_url: str) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, database_url)
    yield archive
    archive.close()


def told(findings: list[Finding]) -> list[tuple[FindingKind, str, str]]:
    return [(found.kind, found.uid, found.path) for found in findings]


def contents(small: SmallArchive) -> list[bytes]:
    """What all files hold, wherever they are."""
    files = (path for path in small.root.rglob("*") if path.is_file() and path.suffix in (".dcm", ""))
    return sorted(path.read_bytes() for path in files)


@pytest.mark.slow
def test_nothing_is_wrong(small: SmallArchive) -> None:
    small.study(3)
    report, findings = small.verify()
    assert (report.clean, findings, report.repaired) == (True, [], 0)
    assert (report.progress.files, report.progress.instances) == (3, 3)


@pytest.mark.slow
def test_a_missing_file(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.file(stored).unlink()
    report, findings = small.verify()
    assert told(findings) == [(FindingKind.MISSING, stored.uids.sop, stored.path)]
    assert not report.clean


@pytest.mark.slow
def test_a_changed_bit_of_the_pixels(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.change(stored)
    assert told(small.verify()[1]) == [(FindingKind.CHANGED, stored.uids.sop, stored.path)]
    assert small.verify(digest=False)[1] == []


@pytest.mark.slow
def test_another_size(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    with small.file(stored).open("ab") as file:
        file.write(b"\0\0")
    found = small.verify(digest=False)[1]
    assert told(found) == [(FindingKind.SIZE, stored.uids.sop, stored.path)]
    assert found[0].detail == f"{stored.size + 2} bytes instead of {stored.size}"


@pytest.mark.slow
def test_a_header_that_cannot_be_parsed(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    data = small.file(stored).read_bytes()
    start = stored.data_set_offset
    small.file(stored).write_bytes(data[:start] + b"\xff" * 64 + data[start + 64 :])
    assert told(small.verify(digest=False)[1]) == [(FindingKind.DAMAGED, stored.uids.sop, stored.path)]


@pytest.mark.slow
def test_a_file_without_dicom_in_it(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.file(stored).write_bytes(bytes(stored.size))
    assert told(small.verify()[1]) == [(FindingKind.DAMAGED, stored.uids.sop, stored.path)]


@pytest.mark.slow
def test_a_row_that_says_otherwise_than_its_file(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.sql(f"UPDATE instance SET rows = '99' WHERE sop_instance_uid = '{stored.uids.sop}'")
    (found,) = small.verify()[1]
    assert told([found]) == [(FindingKind.DRIFT, stored.uids.sop, stored.path)]
    assert found.detail == "the file says otherwise: rows"


@pytest.mark.slow
def test_a_file_without_a_row(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.forget(stored)
    assert told(small.verify()[1]) == [(FindingKind.ORPHAN, stored.uids.sop, stored.path)]


def test_a_file_that_is_no_instance(small: SmallArchive) -> None:
    small.study(1)
    (small.root / "notes.txt").write_text("not DICOM")
    assert told(small.verify()[1]) == [(FindingKind.ORPHAN, "", "notes.txt")]


@pytest.mark.slow
def test_a_file_that_lies_elsewhere_is_told_once(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.move(stored, "zz/moved.dcm")
    (found,) = small.verify()[1]
    assert told([found]) == [(FindingKind.MISPLACED, stored.uids.sop, "zz/moved.dcm")]
    assert found.detail == f"the index has it at {stored.path}"


@pytest.mark.slow
def test_other_bytes_elsewhere_are_not_the_missing_file(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.change(stored)
    small.move(stored, "zz/moved.dcm")
    assert sorted(told(small.verify()[1])) == [
        (FindingKind.MISSING, stored.uids.sop, stored.path),
        (FindingKind.ORPHAN, stored.uids.sop, "zz/moved.dcm"),
    ]


@pytest.mark.slow
def test_a_second_copy(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    (small.root / "copy.dcm").write_bytes(small.file(stored).read_bytes())
    (found,) = small.verify()[1]
    assert told([found]) == [(FindingKind.ORPHAN, stored.uids.sop, "copy.dcm")]
    assert found.detail == f"its instance is stored at {stored.path}"


@pytest.mark.slow
def test_the_earlier_version_of_a_replaced_instance_is_kept(small: SmallArchive) -> None:
    ds = make_ct()
    (first,) = small.store([ds])
    ds.InstanceNumber = 7
    (second,) = small.store([ds])
    assert (first.path, second.path) == (second.path.replace(".v2", ""), second.path)
    report, findings = small.verify()
    assert (findings, report.progress.older_versions) == ([], 1)


@pytest.mark.slow
def test_the_earlier_version_stays_when_the_later_one_is_lost(small: SmallArchive) -> None:
    ds = make_ct()
    (first,) = small.store([ds])
    ds.InstanceNumber = 7
    (second,) = small.store([ds])
    small.store([make_ct()])
    small.file(second).unlink()
    for _ in range(2):
        report, findings = small.verify(repair=True)
        assert told(findings) == [(FindingKind.MISSING, second.uids.sop, second.path)]
        assert report.progress.older_versions >= 1
    assert small.file(first).exists()


@pytest.mark.slow
def test_a_good_copy_of_a_damaged_file(small: SmallArchive) -> None:
    """Somebody put it beside it, from a backup perhaps: it is what the index is to point to."""
    changed, cut, _ = small.study(3)
    for stored in (changed, cut):
        (small.root / f"{stored.uids.sop}.good.dcm").write_bytes(small.file(stored).read_bytes())
    small.change(changed)
    small.file(cut).write_bytes(small.file(cut).read_bytes()[:-2])
    expected = [(FindingKind.MISPLACED, stored.uids.sop, f"{stored.uids.sop}.good.dcm") for stored in (changed, cut)]
    report, findings = small.verify(repair=True)
    assert sorted(told(findings)) == sorted(expected)
    assert report.clean
    # The damaged ones are in nobody's way.
    report, findings = small.verify(repair=True)
    assert sorted((one.kind, one.path) for one in findings) == sorted(
        (FindingKind.ORPHAN, one.path) for one in (changed, cut)
    )
    assert (report.clean, small.files.quarantine.count()) == (True, 2)
    assert small.verify()[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", ["../../elsewhere.dcm", "/etc/passwd", ""])
def test_a_row_that_points_outside_the_archive(small: SmallArchive, path: str) -> None:
    stored, _ = small.study(2)
    small.sql(f"UPDATE instance SET path = '{path}' WHERE sop_instance_uid = '{stored.uids.sop}'")
    report, findings = small.verify(repair=True)
    assert told(findings) == [(FindingKind.MISPLACED, stored.uids.sop, stored.path)]
    assert report.clean
    assert small.row(stored.uids.sop) == stored


@pytest.mark.slow
def test_a_directory_that_cannot_be_listed(small: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing disk: it is named, and all the rest is looked at."""
    stored, other = (small.store([ds])[0] for ds in (make_ct(), make_ct()))
    small.change(other)
    folder = stored.path.partition("/")[0]
    scandir, listdir = os.scandir, os.listdir

    def fail(path: str | Path) -> None:
        if Path(path).name == folder:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", lambda path: fail(path) or scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path: fail(path) or listdir(path))
    changed = (FindingKind.CHANGED, other.uids.sop, other.path)
    assert sorted(told(small.verify()[1])) == sorted([changed, (FindingKind.UNREADABLE, "", f"{folder}/")])
    assert told(small.verify(study=other.uids.study)[1]) == [changed]
    monkeypatch.undo()
    assert told(small.verify()[1]) == [changed]


@pytest.mark.slow
def test_a_file_that_cannot_be_read_beside_its_earlier_version(
    small: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = make_ct(PatientName="One")
    small.store([ds])
    ds.SeriesInstanceUID, ds.PatientName = f"{ds.SeriesInstanceUID}.2", "Two"
    [stored] = small.store([ds])
    refused = os.path.dirname(small.file(stored))
    for name in ("open", "stat"):
        real = getattr(os, name)

        def refuse(path: str | Path, *args: object, _real: Any = real, **options: object) -> Any:
            if str(path).startswith(f"{refused}/"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return _real(path, *args, **options)

        monkeypatch.setattr(os, name, refuse)
    report, findings = small.verify()
    assert told(findings) == [(FindingKind.UNREADABLE, stored.uids.sop, stored.path)]
    assert report.progress.older_versions == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("number_of_study_related_instances", "7"),
        ("number_of_study_related_series", "7"),
        ("modalities_in_study", "'MR'"),
        ("sop_classes_in_study", "''"),
    ],
)
def test_counters_of_a_study(small: SmallArchive, column: str, value: str) -> None:
    stored, _ = small.study(2)
    small.sql(f"UPDATE study SET {column} = {value}")
    report, findings = small.verify()
    assert told(findings) == [(FindingKind.COUNTER, stored.uids.study, "")]
    assert f"study.{column} is " in findings[0].detail
    report, findings = small.verify(repair=True)
    assert (report.clean, [found.repaired for found in findings]) == (True, ["counted anew"])
    assert small.verify()[1] == []


@pytest.mark.slow
def test_counters_of_series_and_patient(small: SmallArchive) -> None:
    small.study(2)
    small.sql("UPDATE series SET number_of_series_related_instances = 9")
    for what in ("studies", "series", "instances"):
        small.sql(f"UPDATE patient SET number_of_patient_related_{what} = 9")
    report, findings = small.verify(repair=True)
    assert report.findings == {"counter": 4}
    assert "P1" not in "".join(found.detail + found.uid for found in findings)
    assert small.verify()[1] == []


@pytest.mark.slow
def test_what_is_on_its_way_in_is_no_finding(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.forget(stored)
    name = next(path.name for path in (small.root / "incoming").iterdir()).removesuffix(".lock")
    os.link(small.file(stored), small.root / "incoming" / f"{name}-99.part")
    report, findings = small.verify()
    assert (findings, report.progress.in_flight, report.incoming) == ([], 1, 1)


def test_what_is_put_right_before_the_second_look_is_no_finding(
    small: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, other = small.study(2)
    data = small.file(stored).read_bytes()
    small.file(stored).unlink()
    small.move(other, "zz/other.dcm")

    def mend(self: Verification) -> None:
        small.file(stored).write_bytes(data)
        (small.root / "zz/other.dcm").rename(small.file(other))

    monkeypatch.setattr(Verification, "_compare_counters", mend)
    assert small.verify()[1] == []


@pytest.mark.slow
def test_a_deletion_is_kept_from_running_at_the_second_look(small: SmallArchive) -> None:
    stored, _ = small.study(2)
    small.forget(stored)

    class Deletes:
        def __enter__(self) -> None:
            small.file(stored).unlink(missing_ok=True)

        def __exit__(self, *_: object) -> None:
            """Deletions may run."""

    small.parts = module.VerificationSources(small.files, small.parts.index, small.parts.state, Deletes)
    assert small.verify()[1] == []


# ------------------------------------------------------------------------------------ scope


@pytest.mark.slow
def test_one_study_only(small: SmallArchive) -> None:
    one, other = small.study(1)[0], small.study(1)[0]
    for stored in (one, other):
        small.file(stored).unlink()
    orphan = small.study(2)[0]
    small.forget(orphan)
    report, findings = small.verify(study=one.uids.study)
    assert told(findings) == [(FindingKind.MISSING, one.uids.sop, one.path)]
    assert report.progress.instances == 1
    assert told(small.verify(study=orphan.uids.study)[1]) == [(FindingKind.ORPHAN, orphan.uids.sop, orphan.path)]


def test_since_a_day(small: SmallArchive) -> None:
    old, new = small.study(2)
    day = datetime.now(UTC) - timedelta(days=3)
    small.sql(f"UPDATE instance SET received_at = '{day:%Y-%m-%d %H:%M:%S.%f}' WHERE path = '{old.path}'")
    for stored in (old, new):
        small.file(stored).unlink()
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert told(small.verify(since=since)[1]) == [(FindingKind.MISSING, new.uids.sop, new.path)]


# ------------------------------------------------------------------------------------ repair


@pytest.mark.slow
def test_repair_removes_nothing_and_leaves_nothing_wrong(small: SmallArchive) -> None:
    orphan, moved, copied, _ = small.study(4)
    small.forget(orphan)
    small.move(moved, "zz/moved.dcm")
    (small.root / "copy.dcm").write_bytes(small.file(copied).read_bytes())
    (small.root / "notes.dcm").write_text("not DICOM")
    before = contents(small)
    report, findings = small.verify(repair=True)
    assert {(found.kind, found.path): found.repaired.partition(" ")[0] for found in findings} == {
        (FindingKind.ORPHAN, orphan.path): "taken",
        (FindingKind.MISPLACED, "zz/moved.dcm"): "the",
        (FindingKind.ORPHAN, "copy.dcm"): "moved",
        (FindingKind.ORPHAN, "notes.dcm"): "moved",
    }
    assert report.clean
    after, findings = small.verify()
    assert (after.clean, findings, after.quarantine) == (True, [], 2)
    assert small.row(orphan.uids.sop) == orphan
    assert contents(small) == before


@pytest.mark.slow
def test_an_orphan_is_durable_before_it_has_a_row(small: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, _ = small.study(2)
    small.forget(stored)
    steps: list[str] = []

    def noted(name: str, at: object) -> None:
        done = getattr(at, name)
        monkeypatch.setattr(at, name, lambda *given: (steps.append(name), done(*given))[1])

    noted("make_durable", small.files.spool)
    noted("adopt", small.archive)
    assert small.verify(repair=True)[0].clean
    assert steps == ["make_durable", "adopt"]


def test_a_row_that_moved_meanwhile_is_not_moved_again(small: SmallArchive) -> None:
    (stored,) = small.study(1)
    assert not small.parts.index.move(stored.uids.sop, old="elsewhere.dcm", new="new.dcm")
    assert small.row(stored.uids.sop) == stored


@pytest.mark.slow
def test_repair_leaves_what_an_index_in_pieces_still_needs(tmp_path: Path) -> None:
    """Without its series a row cannot be read: its file is no second one."""
    small = SmallArchive(tmp_path, f"sqlite:///{tmp_path}/pacs.db")
    (stored,) = small.study(1)
    with closing(sqlite3.connect(tmp_path / "pacs.db", isolation_level=None)) as connection:
        connection.execute("DELETE FROM series")
    report, findings = small.verify(repair=True)
    assert (FindingKind.ORPHAN, stored.uids.sop, stored.path) in told(findings)
    assert not report.clean
    assert small.file(stored).exists()
    small.close()


@pytest.mark.slow
def test_repair_does_not_pretend(small: SmallArchive) -> None:
    missing, changed, _ = small.study(3)
    small.file(missing).unlink()
    small.change(changed)
    report, findings = small.verify(repair=True)
    assert [found.repaired for found in findings] == ["", ""]
    assert (report.clean, report.repaired) == (False, 0)
    assert small.row(missing.uids.sop) == missing


# ------------------------------------------------------------------------------------ interrupted


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.slow
def test_an_interrupted_run_goes_on(small: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at each read in turn, it comes to the same end without beginning anew."""
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_FILES_AT_A_TIME", 2)
    monkeypatch.setattr(module, "_ROWS_AT_A_TIME", 2)
    stored = small.study(5)
    small.forget(stored[0])
    small.change(stored[2])
    small.file(stored[4]).unlink()
    expected = told(small.verify()[1])
    assert len(expected) == 3

    progress: VerificationProgress | None = small.progress()
    reads: list[int] = []
    for _ in range(50):
        assert progress is not None
        before = (progress.path, progress.key)
        left = 2

        def spend(size: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            reads.append(size)

        try:
            run = Verification(small.parts, progress, spend, lambda progress: None)
            run.run()
            break
        except Killed:
            progress = unfinished(small.parts.state)
            assert progress is not None
            assert (progress.path, progress.key) >= before
    assert told(list(run.findings())) == expected


@pytest.mark.slow
def test_files_that_were_looked_at_are_not_looked_at_again(small: SmallArchive) -> None:
    paths = sorted(stored.path for stored in small.study(4))
    progress = small.progress()
    progress.path = paths[2]
    report = Verification(small.parts, progress, lambda size: None, lambda progress: None).run()
    assert (report.progress.files, report.progress.path) == (1, paths[3])


@pytest.mark.slow
def test_two_runs_at_once_do_not_mix(small: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)
    small.study(2)
    first = Verification(small.parts, small.progress(), lambda size: None, lambda progress: None)
    small.progress()
    with pytest.raises(PacsError, match="another verify has begun"):
        first.run()


@pytest.mark.slow
def test_what_was_told_is_forgotten(small: SmallArchive) -> None:
    small.file(small.study(1)[0]).unlink()
    run = Verification(small.parts, small.progress(), lambda size: None, lambda progress: None)
    run.run()
    run.forget()
    assert unfinished(small.parts.state) is None
    assert list(run.findings()) == []


def test_an_archive_that_is_not_there_is_no_finding(small: SmallArchive) -> None:
    small.study(1)
    small.root.rename(small.root.with_name("elsewhere"))
    run = Verification(small.parts, begin(small.parts.state, small.progress()), lambda size: None, lambda p: None)
    run._progress.phase = "rows"
    with pytest.raises(StorageUnavailable):
        run.run()
    small.root.with_name("elsewhere").rename(small.root)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_archive(small: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but one page of rows, paths or findings is held at a time."""
    monkeypatch.setattr(module, "_FILES_AT_A_TIME", 3)
    stored = small.store(make_study(1, 10))
    for one in stored:
        small.file(one).unlink()
    run = Verification(small.parts, small.progress(), lambda size: None, lambda progress: None)
    most = 0
    keep = run._keep

    def watched(found: Finding | None) -> None:
        nonlocal most
        keep(found)
        most = max(most, len(run._found))

    monkeypatch.setattr(run, "_keep", watched)
    report = run.run()
    assert report.findings == {"missing": 10}
    assert most <= 3
