"""Pictures are those of DCMTK: shades and colours differ by one at most, which is rounding."""

import warnings
from pathlib import Path

import dcmtk
import numpy as np
import pydicom
import pytest
from datasets import data_set_bytes, pydicom_test_files
from PIL import Image

from pacs_server.dicom import frame_codecs
from pacs_server.dicom.frames import find_frames
from pacs_server.dicom.image_attributes import Attributes
from pacs_server.dicom.rendering import render

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
# Its overlay is drawn by DCMTK; it takes 32 bits in big endian for two words; it finds the end too early.
_DIFFERENT = ("examples_overlay.dcm", "rtdose_expb.dcm", "rtdose_expb_1frame.dcm", "SC_rgb_jpeg.dcm", "badVR.dcm")

_OF_A_DICOMDIR = ("6154", "17106", "15820", "4678")


class Source:
    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def images() -> list[Path]:
    """The images that DCMTK can read, a few of those that are alike."""
    found = []
    for path in pydicom_test_files():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = ds.file_meta.TransferSyntaxUID
        alike = path.name.startswith("chr") or (path.suffix != ".dcm" and path.name not in _OF_A_DICOMDIR)
        if "Rows" in ds and path.name not in _DIFFERENT and syntax not in _JPEG_2000 and not alike:
            found.append(path)
    return found


with warnings.catch_warnings(action="ignore"):
    IMAGES = images()


def by_dcmtk(path: Path, out: Path) -> np.ndarray:
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    options = ["+Wi", "1"] if "WindowCenter" in ds else ["+Wm"]  # the first window, or the least and greatest value
    if ds.SamplesPerPixel == 3 or ds.PhotometricInterpretation == "PALETTE COLOR":
        options = []
    tool = "dcml2pnm" if ds.file_meta.TransferSyntaxUID.startswith("1.2.840.10008.1.2.4.8") else "dcmj2pnm"
    done = dcmtk.run(tool, *options, "+F", "1", "+op", path, out)
    assert done.returncode == 0, done.stderr
    return np.asarray(Image.open(out)).astype(int)


@pytest.mark.parametrize("path", IMAGES, ids=[path.name for path in IMAGES])
def test_the_picture_of_every_image(path: Path, tmp_path: Path) -> None:
    dcmtk.require("dcmj2pnm")
    syntax, data = data_set_bytes(path)
    if syntax == "1.2.840.10008.1.2.1.99":
        pytest.skip("deflated")
    source = Source(data)
    frames = find_frames(source, syntax)
    pixels = frame_codecs.decode(frames.read(source, 1), frames, syntax)
    ours = render(pixels, frames.image, Attributes.of(data[: frames.header_end], syntax), 1).samples.astype(int)
    theirs = by_dcmtk(path, tmp_path / "picture.pnm")
    if theirs.ndim > ours.ndim:
        ours = np.repeat(ours[..., np.newaxis], 3, -1)
    assert np.abs(ours - theirs).max() <= 1
