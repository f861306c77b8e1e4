"""Sample studies: they are whole, added once, labelled, and moved into the trash again."""

from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from restapi import RestAPI

from pacs_server.dicom.caller import Role
from pacs_server.services import samples
from pacs_server.services.samples import SAMPLES, UIDS, encoded, images


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small slices of each series and a small radiograph: all of them would take seconds."""
    monkeypatch.setattr(samples, "SAMPLES", tuple(replace(one, images=min(2, one.images), size=32) for one in SAMPLES))


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
