"""Images in Explicit VR Little Endian, made piece by piece, against the transcoder that has all of it in memory."""

import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest
from compressed import COLOUR, GRAY12, GRAY16, LOSSLESS, compressed
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from pacs_server.dicom.frame_codecs import ENCODERS
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import FrameNotFound, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.services.frames import FrameService
from pacs_server.services.plain_instance import EncodedInstance, PlainInstance
from pacs_server.services.retrieve import DataSetSource
from pacs_server.services.transcode import transcode
from pacs_server.storage.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Retrieve:
    """Opens what it was given, and knows whether that was closed."""

    def __init__(self, data: bytes) -> None:
        self.source = MemorySource(data, 0)
        self.closed = False
        self.source.close = self._close  # type: ignore[method-assign]

    def open(self, instance: StoredInstance) -> DataSetSource:
        return DataSetSource(self.source, 0)

    def _close(self) -> None:
        self.closed = True


def opened(data: bytes, syntax: str, retrieve: Retrieve) -> PlainInstance:
    return PlainInstance(FrameService(retrieve).open(stored_as(data, syntax)))  # type: ignore[arg-type]


def stored_as(data: bytes, syntax: str) -> StoredInstance:
    return StoredInstance(InstanceUIDs("1", "1", "1"), "1", syntax, "p", 0, len(data), "d", 1)


def plain(data: bytes, syntax: str) -> bytes:
    """The data set that is made of another one; everything is closed in the end."""
    retrieve = Retrieve(data)
    try:
        made = opened(data, syntax, retrieve)
    except TranscodeError:
        assert retrieve.closed
        raise
    whole = b"".join(made.pieces())
    assert len(whole) == made.size
    made.close()
    assert retrieve.closed
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("path", datasets.pydicom_test_files(), ids=lambda path: path.name)
def test_it_is_what_the_transcoder_makes(path: Path) -> None:
    """Byte for byte, for every image that pydicom ships and that can be read frame by frame."""
    syntax, data = datasets.data_set_bytes(path)
    try:
        made = plain(data, syntax)
    except (FrameNotFound, TranscodeError) as error:
        pytest.skip(str(error))
    expected = transcode(data, syntax, ExplicitVRLittleEndian)
    if syntax == ExplicitVRLittleEndian:
        # The transcoder leaves such a data set alone, group lengths included.
        expected = data if made == data else expected
    one, other = (datasets.parse_data_set(each, ExplicitVRLittleEndian) for each in (made, expected))
    assert one == other
    assert one.PixelData == other.PixelData


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("pixels", [GRAY12, GRAY16, COLOUR], ids=["12", "16", "colour"])
def test_every_frame_is_decoded(name: str, pixels: np.ndarray) -> None:
    syntax, encoder = LOSSLESS[name]
    try:
        data = compressed(syntax, [encoder(frame) for frame in pixels], pixels, DataSetTrailingPadding=b"\1\2")
    except Exception as error:  # noqa: BLE001 - the encoder of the test cannot
        pytest.skip(str(error))
    made = plain(data, str(syntax))
    assert made == transcode(data, str(syntax), ExplicitVRLittleEndian)
    ds = datasets.parse_data_set(made, ExplicitVRLittleEndian)
    assert (ds.pixel_array == pixels).all()
    assert ds.DataSetTrailingPadding == b"\1\2"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_memory_is_that_of_a_piece(syntax: str) -> None:
    """Native pixels are copied, or swapped, a piece at a time."""
    ds = datasets.make_ct(rows=2048, columns=4096)
    implicit = syntax == ImplicitVRLittleEndian
    data = encode(ds, is_implicit_vr=implicit, is_little_endian=implicit)
    assert data is not None
    tracemalloc.start()
    made = opened(data, syntax, Retrieve(data))
    size = sum(len(piece) for piece in made.pieces())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == made.size > 16_000_000
    assert most < 4_000_000


@pytest.mark.parametrize("wanted", ENCODERS)
@pytest.mark.parametrize("pixels", [GRAY12, GRAY16, COLOUR], ids=["12", "16", "colour"])
@pytest.mark.parametrize("stored", ["plain", "rle"])
def test_frames_are_encoded(wanted: str, pixels: np.ndarray, stored: str) -> None:
    """Without loss, in every transfer syntax that has an encoder; what lies around the pixels stays."""
    if stored == "plain":
        ds = datasets.make_ct(DataSetTrailingPadding=b"\1\2", Rows=20, Columns=30, NumberOfFrames=2)
        ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
        if pixels.ndim == 4:
            ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PhotometricInterpretation = 3, 1, "RGB"
        order = np.moveaxis(pixels, 3, 1) if pixels.ndim == 4 else pixels
        ds.PixelData = order.tobytes()
        syntax, data = str(ExplicitVRLittleEndian), encode(ds, is_implicit_vr=False, is_little_endian=True)
    else:
        syntax, encoder = str(LOSSLESS["rle"][0]), LOSSLESS["rle"][1]
        data = compressed(syntax, [encoder(frame) for frame in pixels], pixels, DataSetTrailingPadding=b"\1\2")
    assert data is not None
    retrieve = Retrieve(data)
    frames = FrameService(retrieve).open(stored_as(data, syntax))  # type: ignore[arg-type]
    made = EncodedInstance(frames, wanted)
    whole = b"".join(made.pieces())
    made.close()
    assert retrieve.closed
    found = datasets.parse_data_set(whole, wanted)
    assert found.DataSetTrailingPadding == b"\1\2"
    assert found["PixelData"].is_undefined_length
    assert (datasets.parse_data_set(plain(whole, wanted), ExplicitVRLittleEndian).pixel_array == pixels).all()


def test_an_image_that_breaks_off_is_no_image() -> None:
    """A frame that cannot be decoded ends it, at once or on the way."""
    syntax, encoder = LOSSLESS["jpeg-ls"]
    frames = [encoder(frame) for frame in GRAY12]
    with pytest.raises(TranscodeError):
        plain(compressed(syntax, [b"\0" * 10, frames[1]], GRAY12), str(syntax))
    with pytest.raises(TranscodeError):
        plain(compressed(syntax, [frames[0], b"\0" * 10], GRAY12), str(syntax))
