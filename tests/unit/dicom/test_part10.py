"""The head of a file: what is written is read back, and every other software can read it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import dcmtk
import pydicom
import pytest
from datasets import make_ct, write_part10
from hypothesis import given
from hypothesis import strategies as st

from pacs_server.dicom.part10 import NO_SEAL, Provenance, Seal, decode_head, encode_head, plain_head, seal_offset
from pacs_server.dicom.uids import PRIVATE_INFORMATION_CREATOR_UID, is_uid

CT, SOP, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1.2.840.10008.1.2.1"
TOLD = Provenance(datetime(2026, 3, 1, 12, 30, 15, 678, tzinfo=UTC), "CT1", "10.0.0.7")


@pytest.mark.slow
@given(
    moment=st.datetimes(timezones=st.just(UTC)),
    calling_ae=st.text(max_size=16),
    peer=st.text(st.characters(codec=None), max_size=300),
    originator=st.text(max_size=16),
)
def test_provenance_comes_back_as_it_was(moment: datetime, calling_ae: str, peer: str, originator: str) -> None:
    told = Provenance(moment, calling_ae, peer, originator)
    head = encode_head(CT, SOP, EXPLICIT, "CT1", told)
    read = decode_head(head)
    assert read is not None
    assert read.provenance == told
    assert read.data_set_offset == len(head)
    assert len(head) % 2 == 0


@given(
    calling_ae=st.text(max_size=16),
    peer=st.text(st.characters(codec=None), max_size=300),
    size=st.integers(0, 10**16 - 1),
    digest=st.binary(min_size=32, max_size=32),
    number=st.integers(0, 10**20 - 1),
    version=st.integers(0, 10**10 - 1),
)
def test_a_seal_is_written_over_the_head_and_taken_back(
    calling_ae: str, peer: str, size: int, digest: bytes, number: int, version: int
) -> None:
    told, seal = Provenance(TOLD.received_at, calling_ae, peer), Seal(size, digest.hex(), number, version)
    head = encode_head(CT, SOP, EXPLICIT, "CT1", told)
    at, written = seal_offset(head), seal.encode()
    sealed = head[:at] + written + head[at + len(written) :]
    assert len(written) == len(NO_SEAL)
    for now, expected in ((head, None), (sealed, seal), (sealed.replace(written, NO_SEAL), None)):
        read = decode_head(now)
        assert read is not None
        assert (len(now), read.data_set_offset) == (len(head), len(head))
        assert (read.provenance, read.seal) == (told, expected)


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 80, 112])
def test_a_seal_of_which_a_part_is_missing_is_none(cut: int) -> None:
    head = encode_head(CT, SOP, EXPLICIT, "CT1", TOLD)
    at, written = seal_offset(head), Seal(1000, "ab" * 32, 7, 1).encode()[:cut]
    read = decode_head(head[:at] + written + head[at + cut :])
    assert read is not None
    assert (read.provenance, read.seal) == (TOLD, None)


def test_a_moment_in_another_zone_is_kept_in_utc() -> None:
    told = replace(TOLD, received_at=TOLD.received_at.astimezone(timezone(timedelta(hours=5))))
    read = decode_head(encode_head(CT, SOP, EXPLICIT, "CT1", told))
    assert read is not None
    assert read.provenance is not None
    assert read.provenance.received_at.isoformat() == "2026-03-01T12:30:15.000678+00:00"


def test_a_head_that_says_nothing_of_it() -> None:
    read = decode_head(encode_head(CT, SOP, EXPLICIT, "CT1"))
    assert read is not None
    assert (read.source_ae, read.provenance) == ("CT1", None)


def test_what_another_program_keeps_there_is_not_ours() -> None:
    head = encode_head(CT, SOP, EXPLICIT, "CT1", TOLD)
    ours = PRIVATE_INFORMATION_CREATOR_UID
    read = decode_head(head.replace(ours.encode(), ours[:-1].encode() + b"9"))
    assert read is not None
    assert read.provenance is None


@pytest.mark.parametrize("damage", [b"{", b"[1]", b'{"received_at": 1}', b'{"received_at": "soon"}', b"\xff\xfe", b"7"])
def test_damaged_provenance_costs_nothing_else(damage: bytes) -> None:
    head = encode_head(CT, SOP, EXPLICIT, "CT1", TOLD)
    start = head.index(b'{"received_at"')
    read = decode_head(head[:start] + damage.ljust(len(head) - start))
    assert read is not None
    assert (read.provenance, read.transfer_syntax_uid, read.data_set_offset) == (None, EXPLICIT, len(head))


def test_our_uid_is_one() -> None:
    assert is_uid(PRIVATE_INFORMATION_CREATOR_UID)
    assert int(PRIVATE_INFORMATION_CREATOR_UID.removeprefix("2.25.")) < 2**128


def stored(path: Path) -> Path:
    """A file with our head before the data set of a CT."""
    ds = make_ct()
    plain = write_part10(ds, path).read_bytes()
    offset = plain.index(b"\x08\x00\x05\x00CS")
    path.write_bytes(encode_head(ds.SOPClassUID, ds.SOPInstanceUID, EXPLICIT, "CT1", TOLD) + plain[offset:])
    return path


def test_pydicom_reads_it(tmp_path: Path) -> None:
    meta = pydicom.dcmread(stored(tmp_path / "one.dcm")).file_meta
    assert meta.PrivateInformationCreatorUID == PRIVATE_INFORMATION_CREATOR_UID
    assert json.loads(meta.PrivateInformation) == {
        "received_at": "2026-03-01T12:30:15.000678+00:00",
        "calling_ae": "CT1",
        "peer": "10.0.0.7",
        "seal": NO_SEAL.decode(),
    }
    assert meta.SourceApplicationEntityTitle == "CT1"


def test_dcmtk_reads_it(tmp_path: Path) -> None:
    path = stored(tmp_path / "one.dcm")
    assert dcmtk.run("dcmftest", path).stdout.startswith("yes:")
    dumped = dcmtk.run("dcmdump", path)
    assert (dumped.returncode, dumped.stderr) == (0, "")
    assert "PrivateInformationCreatorUID" in dumped.stdout
    assert "PixelData" in dumped.stdout


@pytest.mark.parametrize("length", range(65))
def test_a_head_of_uids_alone_is_the_same_made_in_either_way(length: int) -> None:
    for text in ("0123456789." * 6, "9" * 64, "." * 64):
        uid = text[:length]
        for sop_class, syntax in ((CT, EXPLICIT), ("1.2.3", "1.2.840.10008.1.2.4.100"), ("", "")):
            assert plain_head(sop_class, uid, syntax) == encode_head(sop_class, uid, syntax, "")
