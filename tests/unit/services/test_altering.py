"""Instances as rules change them: read back with pydicom, which knows nothing of this server."""

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pydicom
import pytest
import schema
from archives import ORIGIN
from feeds import Place
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from pacs_server.dicom.deidentification import Deidentifier
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.tag_changes import Modifier, Operation, TagChange
from pacs_server.errors import TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.index.queries import QueryIndex
from pacs_server.services.altering import Altered, AlteringService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.routing import COMPRESSIONS, Alteration
from pacs_server.services.store import StoreService

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BY = Modifier("PACS", "a1b2", "1.0")
PREFIX = Alteration((TagChange(Operation.PREFIX, "PatientID", "N-"),))


class Altering:
    """An archive, and what it sends changed."""

    def __init__(self, place: Place) -> None:
        self.retrieve = RetrieveService(place.archive, QueryIndex(place.database))
        self.service = AlteringService(self.retrieve, lambda: BY, Deidentifier(lambda: b"secret"))
        self._store = StoreService(place.archive)

    def put(self, file: Path) -> StoredInstance:
        self._store.store_file(file, ORIGIN)
        uid = str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
        (stored,) = self.retrieve.select(RetrieveKeys(Level.IMAGE, (), (), (), (uid,)))
        return stored

    def sent(self, stored: StoredInstance, alteration: Alteration) -> tuple[bytes, str]:
        uids, syntax = self.service.describe(stored, alteration)
        with self.service.open(stored, alteration, "rule north") as altered:
            data = whole(altered)
            assert altered.transfer_syntax_uid == syntax
        ds = parsed(data, syntax)
        assert (uids.study, uids.series, uids.sop) == (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        return data, syntax


def whole(source: Altered, piece: int = 977) -> bytes:
    """All of it, in pieces that end where nothing ends."""
    return b"".join(source.read(at, piece) for at in range(0, source.size, piece))


def parsed(data: bytes, syntax: str) -> Dataset:
    uid = UID(syntax)
    ds = read_dataset(BytesIO(data), uid.is_implicit_VR, uid.is_little_endian)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid
    return ds


@pytest.fixture
def altering(tmp_path: Path) -> Iterator[Altering]:
    schema.prepare(tmp_path / "pacs.db")
    with closing(Place(tmp_path / "archive", f"sqlite:///{tmp_path / 'pacs.db'}")) as place:
        yield Altering(place)


CHOSEN = [
    file
    for file in datasets.pydicom_test_files()
    if file.name
    in {
        "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm", "image_dfl.dcm",
        "SC_rgb_rle.dcm", "rtplan.dcm", "test-SR.dcm", "reportsi.dcm", "693_J2KI.dcm", "emri_small.dcm",
    }
]  # fmt: skip


@pytest.mark.parametrize("file", CHOSEN, ids=lambda file: file.stem)
def test_only_what_the_rule_says_is_changed(altering: Altering, file: Path) -> None:
    before = pydicom.dcmread(file)
    stored = altering.put(file)
    data, syntax = altering.sent(stored, PREFIX)
    after = parsed(data, syntax)
    assert after.PatientID == (f"N-{before.PatientID}" if before.PatientID else "")
    added = {"PatientID", "OriginalAttributesSequence", "ContributingEquipmentSequence"}
    theirs = {each.tag for each in before if each.tag.element and each.keyword not in added}
    assert {each.tag for each in after if each.tag.element and each.keyword not in added} == theirs
    for element in before:
        if element.tag in after and element.keyword not in added and element.tag < 0x7FE00000:
            assert after[element.tag] == element, element
    if "PixelData" in before and syntax == before.file_meta.TransferSyntaxUID:
        assert after.PixelData == before.PixelData


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPEG2000.dcm"]
)
@pytest.mark.parametrize("compress", sorted(COMPRESSIONS.values()))
def test_compressed_pixels_are_the_same(altering: Altering, name: str, compress: str) -> None:
    (file,) = [each for each in datasets.pydicom_test_files() if each.name == name]
    stored = altering.put(file)
    data, syntax = altering.sent(stored, Alteration(compress=compress))
    after, before = parsed(data, syntax), pydicom.dcmread(file)
    assert syntax == compress
    frames = int(before.get("NumberOfFrames") or 1)
    assert len(list(generate_frames(after.PixelData, number_of_frames=frames))) == frames
    assert np.array_equal(after.pixel_array, before.pixel_array)


def test_what_has_no_pixels_is_sent_uncompressed(altering: Altering) -> None:
    (file,) = [each for each in CHOSEN if each.name == "rtplan.dcm"]
    data, syntax = altering.sent(altering.put(file), Alteration(compress="1.2.840.10008.1.2.5"))
    assert syntax == "1.2.840.10008.1.2.1"
    assert parsed(data, syntax).PatientID == pydicom.dcmread(file).PatientID


def test_text_that_the_character_set_does_not_have_makes_it_utf_8(altering: Altering, tmp_path: Path) -> None:
    ds = datasets.make_ct("1.1", "1.1.1", "1.1.1.1")
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "M\u00fcller^J\u00f6rg"
    stored = altering.put(datasets.write_part10(ds, tmp_path / "one.dcm"))
    for text, charset in (("Z\u00fcrich", "ISO_IR 100"), ("\u6771\u4eac", "ISO_IR 192")):
        change = Alteration((TagChange(Operation.SET, "InstitutionName", text),))
        after = parsed(*altering.sent(stored, change))
        assert (after.SpecificCharacterSet, after.InstitutionName) == (charset, text)
        assert str(after.PatientName) == "M\u00fcller^J\u00f6rg"


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "SC_rgb_rle.dcm"])
def test_without_its_patient_an_object_has_the_same_pixels(altering: Altering, name: str) -> None:
    (file,) = [each for each in datasets.pydicom_test_files() if each.name == name]
    before = pydicom.dcmread(file)
    deidentified = Alteration((TagChange(Operation.SET, "PatientComments", "for a study"),), deidentify=True)
    after = parsed(*altering.sent(altering.put(file), deidentified))
    assert after.PixelData == before.PixelData
    assert after.PatientIdentityRemoved == "YES"
    assert after.PatientComments == "for a study"
    # What it was before is not told.
    assert "OriginalAttributesSequence" not in after
    assert str(before.PatientName) not in str(after)


def test_an_object_that_came_back_is_refused(altering: Altering, tmp_path: Path) -> None:
    ds = datasets.make_ct("1.1", "1.1.1", "1.1.1.1")
    first = altering.put(datasets.write_part10(ds, tmp_path / "one.dcm"))
    back = parsed(*altering.sent(first, PREFIX))
    back.SOPInstanceUID = back.file_meta.MediaStorageSOPInstanceUID = "1.1.1.2"
    back.file_meta.MediaStorageSOPClassUID = back.SOPClassUID
    back.save_as(tmp_path / "two.dcm", enforce_file_format=True)
    second = altering.put(tmp_path / "two.dcm")
    with pytest.raises(TranscodeError, match="a loop"):
        altering.sent(second, PREFIX)
    with pytest.raises(TranscodeError, match="a loop"):
        altering.sent(second, Alteration(compress="1.2.840.10008.1.2.5"))


def _behind(ds: Dataset) -> None:
    """Put behind the pixels what tells whose they are: private attributes of Siemens, and a digital signature."""
    ds.private_block(0x7FE1, "SIEMENS", create=True).add_new(0x10, "LO", "Doe^Jane 4711")
    signature = Dataset()
    signature.DigitalSignatureUID, signature.CertificateOfSigner = "1.2.3", b"CN=Dr. Jane Doe "
    ds.DigitalSignaturesSequence = [signature]
    ds.DataSetTrailingPadding = b"\0" * 20


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "test-SR.dcm"],
)
@pytest.mark.parametrize("compress", ["", COMPRESSIONS["RLELossless"]])
def test_nothing_behind_the_pixels_tells_who_it_is(
    altering: Altering, tmp_path: Path, name: str, compress: str
) -> None:
    (file,) = [each for each in datasets.pydicom_test_files() if each.name == name]
    before = pydicom.dcmread(file)
    _behind(before)
    before.save_as(tmp_path / "behind.dcm")
    stored = altering.put(tmp_path / "behind.dcm")
    data, syntax = altering.sent(stored, Alteration(compress=compress, deidentify=True))
    after = parsed(data, syntax)
    assert [str(each.tag) for each in after if each.tag.group > 0x7FE0] == []
    assert b"Jane" not in data
    if "PixelData" in before and not compress:
        assert after.PixelData == before.PixelData
