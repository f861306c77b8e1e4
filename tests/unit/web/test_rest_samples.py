"""Sample studies: they are whole, added once, labelled, and moved into the trash again."""

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from restapi import RestAPI

from pacs_server.dicom import phantom
from pacs_server.dicom.caller import Role
from pacs_server.services import samples
from pacs_server.services.samples import SAMPLES, UIDS, encoded, images


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slices of each series and a small radiograph: all of them would take seconds."""
    monkeypatch.setattr(phantom, "radiograph", lambda: np.zeros((16, 16), np.uint16))
    short = tuple(
        samples.Sample(
            each.number, each.patient, each.sex, each.modality, each.sop_class_uid, each.description,
            tuple(samples.Series(one.description, min(2, one.images), one.draw, one.more) for one in each.series),
        )
        for each in SAMPLES
    )  # fmt: skip
    monkeypatch.setattr(samples, "SAMPLES", short)


def test_they_come_once_with_a_label_and_go_into_the_trash(api: RestAPI, few: None) -> None:
    assert api.get("/samples") == {"studies": []}
    assert api.send("POST", "/samples", status=201) == {"studies": list(UIDS)}
    rows = api.get("/studies")["items"]
    assert sorted((row["PatientID"], row["NumberOfStudyRelatedInstances"]) for row in rows) == [
        ("SAMPLE-1", 2),
        ("SAMPLE-2", 4),
        ("SAMPLE-3", 1),
    ]
    assert all(row["StudyDescription"].startswith("Sample: ") for row in rows)
    marked = api.get("/marks?label=sample")["items"]
    assert sorted(row["study"] for row in marked) == sorted(UIDS)
    # Again: nothing new.
    api.send("POST", "/samples", status=201)
    assert sum(row["NumberOfStudyRelatedInstances"] for row in api.get("/studies")["items"]) == 7
    assert api.send("DELETE", "/samples") == {"studies": list(UIDS)}
    assert api.get("/studies")["items"] == []
    assert {row["reason"] for row in api.get("/trash")["items"]} == {"sample data"}
    assert api.send("DELETE", "/samples") == {"studies": []}


def test_who_may_not_delete_cannot_remove_them(api: RestAPI, few: None) -> None:
    api.act_as(Role.CONTRIBUTOR)
    api.send("POST", "/samples", status=201)
    api.send("DELETE", "/samples", status=403)
    api.act_as(Role.READER)
    api.send("POST", "/samples", status=403)


def test_their_data_sets_can_be_read_and_differ() -> None:
    firsts = [next(images(sample)) for sample in SAMPLES]
    for ds in firsts:
        read = dcmread(BytesIO(encoded(ds)), force=True)
        assert read.SOPInstanceUID == ds.SOPInstanceUID
        assert len(read.PixelData) == 2 * read.Rows * read.Columns
    assert len({ds.SOPInstanceUID for ds in firsts}) == 3


def test_the_phantoms_show_what_they_should() -> None:
    chest = phantom.chest_slice(20)
    assert chest.shape == (256, 256)
    # Air around, lungs on both sides, soft tissue in between, bone behind.
    assert chest[5, 128] < -950
    assert np.median(chest[118:136, 75:90]) < -700
    assert np.median(chest[118:136, 165:180]) < -700
    assert 0 < np.median(chest[90:110, 120:135]) < 250
    assert chest.max() > 500
    t1, t2 = (phantom.head_slice(10, t2=t2) for t2 in (False, True))
    ventricle = (slice(105, 118), slice(114, 120))
    assert np.median(t1[ventricle]) < 500
    assert np.median(t2[ventricle]) > 1500
    assert (phantom.chest_slice(20) == chest).all()
