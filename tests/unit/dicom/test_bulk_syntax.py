"""The transfer syntax of compressed bulk data is what its bytes say, else the default of its media type."""

from pathlib import Path

import pydicom
import pytest
from datasets import pydicom_test_files
from pydicom.encaps import generate_frames

from pacs_server.dicom import bulk_syntax
from pacs_server.dicom.bulk_syntax import syntax_of
from pacs_server.dicom.part10 import decode_head

_MEDIA_TYPES = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}


def compressed_files() -> list[Path]:
    syntaxes = {path: decode_head(path.read_bytes()[:4096]) for path in pydicom_test_files()}
    return [path for path, head in syntaxes.items() if head is not None and head.transfer_syntax_uid in _MEDIA_TYPES]


@pytest.mark.filterwarnings("ignore")  # of pydicom, about what the files hold
@pytest.mark.parametrize("path", compressed_files(), ids=lambda path: path.name)
def test_files_of_pydicom(path: Path) -> None:
    ds = pydicom.dcmread(path)
    syntax = ds.file_meta.TransferSyntaxUID
    frame = next(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)))
    found = syntax_of(_MEDIA_TYPES[syntax], frame[:4096])
    # These say JPEG 2000 and hold the reversible wavelet, which either transfer syntax may have.
    assert found == syntax or (syntax == bulk_syntax.JPEG_2000 and found == bulk_syntax.JPEG_2000_LOSSLESS)


@pytest.mark.parametrize(
    "start", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda\0\2", b"\xff\xd8\xff\xc3\0\x03x\xff\xda\0\3", b"GIF"]
)
def test_the_default_where_the_bytes_tell_nothing(start: bytes) -> None:
    assert syntax_of("image/jpeg", start) == bulk_syntax.JPEG_LOSSLESS_SV1


def test_what_is_not_compressed() -> None:
    assert syntax_of("application/octet-stream", b"\xff\xd8") is None
