"""What verification and the scrub have found is listed until it is over."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from archives import SmallArchive

from pacs_server.upkeep import known_faults as module
from pacs_server.upkeep.checking import Finding, FindingKind
from pacs_server.upkeep.known_faults import KnownFaults
from pacs_server.upkeep.scrub import SCRUB_FINDINGS


@pytest.fixture
def small(tmp_path: Path, database_url: str) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, database_url)
    yield archive
    archive.close()


@pytest.fixture
def known(small: SmallArchive) -> KnownFaults:
    return KnownFaults(small.archive, small.files.storage, small.parts.index, small.parts.state)


def _verify(small: SmallArchive, known: KnownFaults, **options: object) -> None:
    known.keep(*small.verify(**options))  # type: ignore[arg-type]


def _told(known: KnownFaults) -> list[tuple[str, str, str]]:
    return sorted((each.finding.kind.value, each.finding.uid, each.found_by) for each in known.faults())


def test_what_a_verification_finds_is_known_until_it_is_put_back(small: SmallArchive, known: KnownFaults) -> None:
    stored, other = small.study(2)
    assert (known.faults(), known.last_verification()) == ([], None)
    data = small.file(stored).read_bytes()
    small.file(stored).unlink()
    small.change(other)
    _verify(small, known)
    missing, changed = ("missing", stored.uids.sop, "verify"), ("changed", other.uids.sop, "verify")
    assert _told(known) == sorted([missing, changed])
    assert {each.study for each in known.faults()} == {stored.uids.study}
    last = known.last_verification()
    assert last is not None
    assert (last.digest, last.files, last.instances, last.findings, last.repaired) == (True, 1, 2, 2, 0)
    small.file(stored).write_bytes(data)
    assert _told(known) == [changed], "that it is there again is seen without a verification"
    _verify(small, known, digest=False)
    assert _told(known) == [changed], "whoever does not read it cannot say that it is in order"
    small.forget(other)
    assert _told(known) == []


def test_a_verification_of_one_study_leaves_the_others(small: SmallArchive, known: KnownFaults) -> None:
    (one,), (two,) = small.study(1), small.study(1)
    for stored in (one, two):
        small.change(stored)
    _verify(small, known)
    last = known.last_verification()
    small.change(one)
    _verify(small, known, study=one.uids.study)
    assert _told(known) == [("changed", two.uids.sop, "verify")]
    assert known.last_verification() == last, "that was no verification of the whole archive"
    small.change(one)
    _verify(small, known, study=one.uids.study)
    assert len(_told(known)) == 2


def test_what_was_repaired_is_not_kept(small: SmallArchive, known: KnownFaults) -> None:
    (stored,) = small.study(1)
    small.forget(stored)
    _verify(small, known)
    assert _told(known) == [("orphan", stored.uids.sop, "verify")]
    _verify(small, known, repair=True)
    assert _told(known) == []
    last = known.last_verification()
    assert last is not None
    assert (last.findings, last.repaired) == (1, 1)


def test_what_the_scrub_finds_is_listed_once(small: SmallArchive, known: KnownFaults) -> None:
    one, two = small.study(2)
    for stored in (one, two):
        small.change(stored)
        found = Finding(FindingKind.CHANGED, stored.uids.sop, stored.path, "the digest differs")
        small.parts.state.put({SCRUB_FINDINGS + stored.uids.sop: json.dumps(asdict(found) | {"number": 1})})
    assert [found_by for *_, found_by in _told(known)] == ["scrub", "scrub"]
    small.change(one)
    _verify(small, known)
    assert _told(known) == sorted([("changed", one.uids.sop, "scrub"), ("changed", two.uids.sop, "verify")])


def test_of_very_many_faults_the_first_are_kept(
    small: SmallArchive, known: KnownFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FAULTS", 3)
    for stored in small.study(5):
        small.file(stored).unlink()
    for _ in range(2):
        _verify(small, known)
        assert len(known.faults()) == 3
    last = known.last_verification()
    assert last is not None
    assert last.findings == 5
