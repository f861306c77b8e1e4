"""One frame at a time, stored or transcoded, against pydicom as the second opinion."""

import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pydicom
import pytest
from compressed import COLOUR, GRAY12, GRAY16, LOSSLESS, compressed
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pacs_server.dicom import frame_codecs
from pacs_server.dicom.codestream import size_of
from pacs_server.dicom.frame_codecs import ENCODERS, Pixels
from pacs_server.dicom.frames import FrameMap, find_frames
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import FrameNotFound, ResourceLimitation, TooLarge, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.services.bulk_data import BulkDataService
from pacs_server.services.frames import FrameService, OpenFrames, RecentMaps
from pacs_server.services.retrieve import DataSetSource
from pacs_server.storage.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FILES = datasets.pydicom_test_files()
NATIVE = ExplicitVRLittleEndian


class Retrieve:
    """Opens what it was given, and counts the reads."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []
        self.open_now = 0

    def open(self, instance: StoredInstance) -> "Retrieve":
        self.open_now += 1
        return self

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def close(self) -> None:
        self.open_now -= 1


def instance_of(data: bytes, syntax: str) -> StoredInstance:
    return StoredInstance(InstanceUIDs("1", "2", "3"), "1.2", syntax, "p", 0, len(data), f"{zlib.crc32(data)}", 0)


def opened(data: bytes, syntax: str, retrieve: Retrieve | None = None) -> OpenFrames:
    return FrameService(retrieve or Retrieve(data)).open(instance_of(data, syntax))  # type: ignore[arg-type]


def with_pixels(path: Path) -> bool:
    with warnings.catch_warnings(action="ignore"):
        ds = pydicom.dcmread(path)
    return (
        any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
        and "Rows" in ds
        and path.name != "badVR.dcm"
    )


IMAGES = tuple(path for path in FILES if with_pixels(path))


def kind_of(path: Path) -> tuple[object, ...]:
    """What an encoder may do differently; of the files of a kind one is enough."""
    with warnings.catch_warnings(action="ignore"):
        image = pydicom.dcmread(path, stop_before_pixels=True)
    names = (
        "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation", "PlanarConfiguration",
    )  # fmt: skip
    several = int(image.get("NumberOfFrames") or 1) > 1
    return *(image.get(name) for name in names), several, image.Rows % 2, image.Columns % 2


SMALL = tuple({kind_of(path): path for path in IMAGES if path.stat().st_size < 12_000}.values())


def expected_arrays(path: Path) -> list[np.ndarray]:
    return list(iter_pixels(pydicom.dcmread(path), raw=True))


@pytest.mark.slow
@pytest.mark.parametrize("path", IMAGES, ids=[path.name for path in IMAGES])
def test_pixels_are_those_of_pydicom(path: Path) -> None:
    syntax, data = datasets.data_set_bytes(path)
    try:
        expected = expected_arrays(path)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"pydicom cannot decode it: {error}")
    with opened(data, syntax) as frames:
        # pydicom's plugins and ours differ by one in lossy JPEG.
        most = 1 if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) else 0
        for number, array in enumerate(expected[:20], 1):
            ours = frames.pixels(number)
            assert ours.samples.shape == array.shape
            assert np.abs(ours.samples.astype("f8") - array.astype("f8")).max() <= most


# The others share an encoder with one of these.
TARGETS = sorted(set(ENCODERS) - {JPEG2000, HTJ2K, JPEGLossless, JPEGLSNearLossless})


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("path", SMALL, ids=[path.name for path in SMALL])
def test_every_encoder_gives_the_pixels_back(path: Path, target: str) -> None:
    """Or says that it cannot; nothing else."""
    syntax, data = datasets.data_set_bytes(path)
    with opened(data, syntax) as frames:
        try:
            pixels = frames.pixels(1)
        except TranscodeError:
            pytest.skip("cannot be decoded")
        try:
            encoded = frame_codecs.encode(pixels, frames.map, target)
        except TranscodeError:
            image = frames.map.image
            plain = pixels.samples.dtype.kind != "f" and image.bits_allocated in (8, 16)
            assert not plain or image.samples_per_pixel not in (1, 3)
            return
        again = find_frames(encapsulated(encoded, pixels, frames), target)
        back = frame_codecs.decode(encoded, again, target)
        assert np.array_equal(back.samples, pixels.samples)


def encapsulated(frame: bytes, pixels: Pixels, frames: OpenFrames) -> Retrieve:
    image = frames.map.image
    colour = "RGB" if pixels.samples.ndim == 3 else "MONOCHROME2"
    return Retrieve(
        compressed(
            RLELossless,
            [frame],
            pixels.samples[np.newaxis],
            BitsStored=image.bits_stored,
            PhotometricInterpretation=colour,
        )
    )


SETS = {"12 bits": GRAY12, "16 bits signed": GRAY16, "colour": COLOUR}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("source", LOSSLESS)
def test_a_frame_in_any_codec_can_be_had_in_any_other(source: str, kind: str, target: str) -> None:
    syntax, encoder = LOSSLESS[source]
    array = SETS[kind]
    if array.dtype.kind == "i" and source in ("jpeg-ls", "jpeg-lossless", "jpeg-lossless-sv1", "jpeg-xl"):
        encoder_input = array.view("u2")
    else:
        encoder_input = array
    data = compressed(syntax, [encoder(frame) for frame in encoder_input], array)
    with opened(data, syntax) as frames:
        encoded = frames.transcoded(2, target)
        assert np.array_equal(frames.pixels(2).samples, array[1])
        back = frame_codecs.decode(encoded.rstrip(b""), frames.map, target)
        assert np.array_equal(back.samples, array[1])
        assert frames.transcoded(2, NATIVE) == array[1].tobytes()


def test_stored_frames_are_the_bytes_between_the_tags() -> None:
    data = compressed(RLELossless, [LOSSLESS["rle"][1](frame) for frame in GRAY12], GRAY12)
    with opened(data, RLELossless) as frames:
        assert frames.transfer_syntax_uid == RLELossless
        assert [frames.stored(n) for n in (1, 2)] == [LOSSLESS["rle"][1](frame) for frame in GRAY12]
        ranges = frames.ranges(2)
        assert b"".join(data[start : start + length] for start, length in ranges or []) == frames.stored(2)
        with pytest.raises(FrameNotFound):
            frames.stored(3)


def test_a_planar_image_stays_planar_as_its_attributes_say() -> None:
    data = compressed(RLELossless, [LOSSLESS["rle"][1](frame) for frame in COLOUR], COLOUR, PlanarConfiguration=1)
    with opened(data, RLELossless) as frames:
        assert frames.transcoded(1, NATIVE) == np.moveaxis(COLOUR[0], 2, 0).tobytes()


def test_a_deflated_data_set_gives_its_frames() -> None:
    path = next(path for path in FILES if path.name == "image_dfl.dcm")
    syntax, data = datasets.data_set_bytes(path)
    assert syntax == DeflatedExplicitVRLittleEndian
    with opened(data, syntax) as frames:
        assert frames.transfer_syntax_uid == NATIVE
        assert frames.stored(1) == pydicom.dcmread(path).PixelData
    # As many times as there are data sets at a time, and more.
    for bad in (data[:-100], b"\1\2\3") * 3:
        with pytest.raises(TranscodeError):
            opened(bad, syntax)


def test_only_a_few_deflated_data_sets_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs_server.services.frames._SECONDS", 0.0)
    path = next(path for path in FILES if path.name == "image_dfl.dcm")
    syntax, data = datasets.data_set_bytes(path)
    some = [opened(data, syntax) for _ in range(4)]
    refused = Retrieve(data)
    with pytest.raises(ResourceLimitation):
        opened(data, syntax, refused)
    assert refused.open_now == 0
    for frames in (*some, *some):
        frames.close()
    opened(data, syntax).close()
    monkeypatch.setattr("pacs_server.services.frames._MAX_INFLATED", 1000)
    with pytest.raises(TooLarge):
        opened(data, syntax)


def test_encapsulated_uncompressed_frames() -> None:
    data = compressed(frame_codecs.ENCAPSULATED_UNCOMPRESSED, [frame.tobytes() for frame in GRAY12], GRAY12)
    with opened(data, frame_codecs.ENCAPSULATED_UNCOMPRESSED) as frames:
        assert frames.transcoded(2, NATIVE) == GRAY12[1].tobytes()
        back = frame_codecs.decode(frames.transcoded(2, RLELossless), frames.map, RLELossless)
        assert np.array_equal(back.samples, GRAY12[1])


def test_the_map_is_kept_so_that_the_header_is_read_once() -> None:
    data = compressed(RLELossless, [LOSSLESS["rle"][1](frame) for frame in GRAY12], GRAY12)
    retrieve = Retrieve(data)
    service = FrameService(retrieve)  # type: ignore[arg-type]
    for _ in range(2):
        retrieve.reads.clear()
        with service.open(instance_of(data, RLELossless)) as frames:
            frames.stored(2)
    # The head of the item, and the frame.
    assert len(retrieve.reads) == 2


THREE = np.concatenate([GRAY12, GRAY12[:1] + 1])


def with_a_broken_table() -> bytes:
    """Three frames; the second offset, which nobody looks at before, points into the first of them."""
    encoded = [LOSSLESS["jpeg-ls"][1](frame) for frame in THREE]
    data = compressed(JPEGLSLossless, encoded, THREE)
    at = data.index(struct.pack("<HHLLL", 0xFFFE, 0xE000, 12, 0, len(encoded[0]) + len(encoded[0]) % 2 + 8)) + 12
    return data[:at] + struct.pack("<L", 20) + data[at + 4 :]


def test_a_broken_table_is_mistrusted_and_the_right_map_kept() -> None:
    wrong = with_a_broken_table()
    retrieve, maps = Retrieve(wrong), RecentMaps()
    service = FrameService(retrieve, maps)  # type: ignore[arg-type]
    with service.open(instance_of(wrong, JPEGLSLossless)) as frames:
        assert not frames.map.single
        assert np.array_equal(frames.pixels(2).samples, THREE[1])
    with service.open(instance_of(wrong, JPEGLSLossless)) as frames:
        assert frames.map.single


@pytest.mark.parametrize("first", ["frames", "bulk data"])
def test_bulk_data_are_the_frames_even_if_the_table_is_broken(first: str) -> None:
    wrong = with_a_broken_table()
    instance = instance_of(wrong, JPEGLSLossless)
    retrieve, maps = Retrieve(wrong), RecentMaps()
    frames, bulk_data = FrameService(retrieve, maps), BulkDataService(retrieve, maps)  # type: ignore[arg-type]
    if first == "frames":
        with frames.open(instance) as found:
            found.stored(2)
    with bulk_data.open(instance, "7FE00010") as value:
        values = [b"".join(value.pieces(each)) for each in value.values()]
    with frames.open(instance) as found:
        assert values == [found.stored(number) for number in (1, 2, 3)]
        assert np.array_equal([found.pixels(number).samples for number in (1, 2, 3)], THREE)


def test_kept_maps_are_bounded_and_those_used_last_stay() -> None:
    data = compressed(RLELossless, [LOSSLESS["rle"][1](frame) for frame in GRAY12], GRAY12)
    with opened(data, RLELossless) as frames:
        found = frames.map
    longer = replace(found, bounds=found.bounds * 100)
    assert longer.memory >= found.memory + 99 * 8 * len(found.bounds)
    maps = RecentMaps(limit=3 * found.memory)
    instances = [instance_of(bytes([n]), NATIVE) for n in range(4)]
    for instance in instances[:3]:
        maps.put(instance, found)
    assert maps.get(instances[0]) is found
    maps.put(instances[3], found)
    assert maps.get(instances[1]) is None
    assert maps.get(instances[0]) is not None


@pytest.mark.parametrize("name", ["jpeg-ls", "jpeg-2000", "htj2k", "jpeg-lossless-sv1"])
def test_a_codestream_that_tells_of_a_huge_image_is_not_decoded(name: str) -> None:
    """A decoder would allocate memory for it."""
    syntax, encoder = LOSSLESS[name]
    stream = encoder(GRAY12[0])
    assert size_of(stream) == (20, 30)
    huge = stream.replace(struct.pack(">HH", 20, 30), b"\xff\xff\xff\xff", 1)
    huge = huge.replace(struct.pack(">LL", 30, 20), b"\0\1\0\0\0\1\0\0", 1)
    assert huge != stream
    with (
        opened(compressed(syntax, [huge], GRAY12[:1]), syntax) as frames,
        pytest.raises(TranscodeError, match="larger"),
    ):
        frames.pixels(1)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51"]))
def test_the_size_of_any_codestream(data: bytes, start: bytes) -> None:
    size_of(start + data)


def test_what_was_kept_and_cannot_be_read_is_no_map() -> None:
    for garbage in (b"\0\1\2", zlib.compress(b"{}\n"), zlib.compress(b"[7]\n"), zlib.compress(b"[1, 2]\n")):
        assert FrameMap.decode(garbage) is None


def test_a_huge_frame_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_codecs, "MAX_FRAME", 1000)
    monkeypatch.setattr("pacs_server.services.frames.MAX_FRAME", 1000)
    data = compressed(RLELossless, [LOSSLESS["rle"][1](frame) for frame in GRAY12], GRAY12)
    with opened(data, RLELossless) as frames, pytest.raises(TooLarge):
        frames.pixels(1)


def test_what_no_encoder_can_is_said() -> None:
    data = compressed(RLELossless, [LOSSLESS["rle"][1](frame) for frame in GRAY12], GRAY12)
    with opened(data, RLELossless) as frames, pytest.raises(TranscodeError):
        frames.transcoded(1, JPEGBaseline8Bit)
    with opened(data, JPEG2000Lossless) as frames, pytest.raises(TranscodeError, match="decoded"):
        frames.transcoded(1, NATIVE)


def test_lossless_streams_are_given_for_transfer_syntaxes_that_may_lose() -> None:
    data = compressed(RLELossless, [LOSSLESS["rle"][1](frame) for frame in GRAY12], GRAY12)
    with opened(data, RLELossless) as frames:
        for syntax in (JPEG2000, HTJ2K, JPEGLossless, JPEGLSNearLossless):
            back = frame_codecs.decode(frames.transcoded(1, syntax), frames.map, syntax)
            assert np.array_equal(back.samples, GRAY12[0])


def test_the_source_is_closed_when_there_are_no_frames() -> None:
    closed = []

    class Source(MemorySource):
        def close(self) -> None:
            closed.append(True)

    class Fails:
        def open(self, instance: StoredInstance) -> DataSetSource:
            return DataSetSource(Source(b"\x08\0\x16\0UI\x02\x001\0", 0), 0)

    with pytest.raises(FrameNotFound):
        FrameService(Fails()).open(instance_of(b"", NATIVE))  # type: ignore[arg-type]
    assert closed
