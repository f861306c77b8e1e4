"""DICOM files that come in pieces tell what they are from their first bytes."""

import pytest
from datasets import make_ct, pydicom_test_files, write_part10

from pacs_server.dicom.header import read_header
from pacs_server.dicom.part10_stream import START_BYTES, Part10Stream
from pacs_server.errors import InvalidInstance


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("path", pydicom_test_files(), ids=lambda path: path.name)
def test_every_file_tells_its_uids_and_comes_whole(path) -> None:
    data = path.read_bytes()
    stream = Part10Stream(pieces(data, 1000))
    assert stream.head is not None
    data_set = b"".join(stream.data_set())
    assert data_set == data[stream.head.data_set_offset :]
    header = read_header(data_set, stream.head.transfer_syntax_uid, complete=True)
    assert stream.sop_uids() == (header.sop_class_uid, header.uids.sop)


def test_no_more_is_read_than_the_beginning(tmp_path) -> None:
    data = write_part10(make_ct(rows=512, columns=512), tmp_path / "one.dcm").read_bytes()
    rest = iter(pieces(data, 8192))
    Part10Stream(rest).sop_uids()
    assert len(b"".join(rest)) == len(data) - START_BYTES


def test_what_is_no_dicom_file() -> None:
    assert Part10Stream([b"GIF89a", bytes(1000)]).head is None
    assert Part10Stream([]).head is None


def test_a_data_set_without_its_uids(tmp_path) -> None:
    ds = make_ct()
    path = write_part10(ds, tmp_path / "one.dcm")
    head_only = path.read_bytes()[: path.stat().st_size - 3000]
    end = head_only.index(b"\x08\x00\x18\x00UI") + 8
    with pytest.raises(InvalidInstance, match="SOPInstanceUID is missing"):
        Part10Stream([head_only[:end]]).sop_uids()
    with pytest.raises(InvalidInstance, match="cut"):
        Part10Stream([head_only[:200]])
