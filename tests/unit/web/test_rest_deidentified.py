"""A study as a ZIP file without what identifies the patient, and the preview of that."""

import io
import zipfile

import pydicom
import pytest
from datasets import make_ct, make_study
from pydicom.dataset import Dataset
from restapi import LIMITED, RestAPI

from pacs_server.dicom.caller import Role
from pacs_server.dicom.tags import tag_text
from pacs_server.web.api.operation import PREFIX

IDENTIFYING = ("Doe^Jane", "4711", "A-77", "North Clinic", "Weber")


def a_study() -> list[Dataset]:
    made = make_study(2, 2, PatientName="Doe^Jane", PatientID="4711", AccessionNumber="A-77")
    for ds in made:
        ds.InstitutionName, ds.PerformingPhysicianName, ds.PatientComments = "North Clinic", "Weber^Max", "of Jane Doe"
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, made[0].SOPInstanceUID
        ds.ReferencedImageSequence = [item]
        ds.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "Doe^Jane")
    return made


def downloaded(api: RestAPI, study: str) -> tuple[zipfile.ZipFile, dict[str, Dataset]]:
    answer = api.client.get(f"{PREFIX}/studies/{study}/deidentified")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert study not in answer.headers["content-disposition"]
    packed = zipfile.ZipFile(io.BytesIO(answer.content))
    assert packed.testzip() is None
    return packed, {
        name: pydicom.dcmread(io.BytesIO(packed.read(name))) for name in packed.namelist() if name.startswith("DICOM/")
    }


def test_the_zip_file_tells_nothing_and_leads_to_all_objects(api: RestAPI) -> None:
    stored = api.store(a_study())
    packed, files = downloaded(api, stored[0].StudyInstanceUID)
    assert len(files) == 4
    for name in packed.namelist():
        assert not [text for text in IDENTIFYING if text.encode() in packed.read(name)], name
    for name, ds in files.items():
        assert (ds.PatientIdentityRemoved, ds.Modality) == ("YES", "CT")
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.PixelData == stored[0].PixelData, name
    # Who refers to whom is as before, and the directory names each file by its new UID (PS3.3 F.5).
    first = files["DICOM/SE000001/IM000001"]
    assert {ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID for ds in files.values()} == {first.SOPInstanceUID}
    records = pydicom.dcmread(io.BytesIO(packed.read("DICOMDIR"))).DirectoryRecordSequence
    named = {
        "/".join(each.ReferencedFileID): each.ReferencedSOPInstanceUIDInFile
        for each in records
        if "ReferencedFileID" in each
    }
    assert named == {name: ds.SOPInstanceUID for name, ds in files.items()}
    begun, ended = (each.event for each in api.audited()[-2:])
    assert (begun.event_id.value[1], ended.detail) == ("Begin Transferring DICOM Instances", "4 of 4 sent, 0 failed")
    assert ended.subjects[0].patient_id == "4711"


def test_what_cannot_be_de_identified_is_left_out_and_counted(api: RestAPI) -> None:
    ds, burned = make_study(2, 1, PatientName="Doe^Jane")
    burned.BurnedInAnnotation = "YES"
    api.store([ds, burned])
    packed, files = downloaded(api, ds.StudyInstanceUID)
    assert len(files) == 1
    assert packed.read("README.TXT").decode() == (
        "1 of 2 objects could not be de-identified, and are not in this file:\r\n\r\n"
        "1: Burned In Annotation says that the pixels tell something.\r\n"
    )
    assert api.audited()[-1].event.detail == "1 of 2 sent, 1 failed"
    (refused,) = api.get(f"/studies/{ds.StudyInstanceUID}/deidentification")["refused"]
    assert (refused["series"], refused["instances"]) == (burned.SeriesInstanceUID, 1)
    assert "Burned In Annotation" in refused["reason"]


def test_the_preview_tells_what_becomes_of_every_attribute(api: RestAPI) -> None:
    stored = api.store(a_study())
    found = api.get(f"/studies/{stored[0].StudyInstanceUID}/deidentification")
    assert (found["series"], found["looked_at"], found["refused"]) == (2, 2, [])
    rows = {tuple(each["path"]): each for each in found["items"]}
    told = {path[-1]: (each["change"], each["before"], each["series"]) for path, each in rows.items()}
    assert told["(0010,0010)"] == ("emptied", "Doe^Jane", 2)
    assert told["(0010,4000)"] == ("removed", "of Jane Doe", 2)
    assert told["(0029,1001)"] == ("removed", "Doe^Jane", 2)
    assert told["(0008,0060)"] == ("kept", "CT", 2)
    assert told["(0012,0062)"] == ("added", "", 2)
    item = rows["(0008,1140)", "(0008,1155)"]
    assert (item["change"], item["after"][:5]) == ("replaced", "2.25.")
    # Every attribute of the study is told, with nothing of it changed that the preview calls kept.
    assert {tag_text(int(each.tag)) for each in stored[0] if each.tag < 0x7FE00000} <= set(told)
    _, files = downloaded(api, stored[0].StudyInstanceUID)
    first = files["DICOM/SE000001/IM000001"]
    for path, each in rows.items():
        if len(path) == 1 and each["change"] in ("removed", "emptied"):
            group, element = path[0][1:5], path[0][6:10]
            left = first.get((int(group, 16), int(element, 16)))
            assert left is None or (each["change"] == "emptied" and left.is_empty), path
    assert api.audited()[-3].event.detail == "2 of 2 sent, 0 failed"


def test_a_caller_with_limits_gets_what_it_sees(api: RestAPI) -> None:
    ds = make_ct(Modality="MR")
    api.store([ds, make_ct(ds.StudyInstanceUID, Modality="CT")])
    (foreign,) = api.study(Modality="CT")
    api.act_as(Role.READER, LIMITED)
    assert len(downloaded(api, ds.StudyInstanceUID)[1]) == 1
    assert api.get(f"/studies/{ds.StudyInstanceUID}/deidentification")["series"] == 1
    for name in ("deidentified", "deidentification"):
        api.send("GET", f"/studies/{foreign.StudyInstanceUID}/{name}", status=404)


@pytest.mark.parametrize("uid", ["x", "1.2.3"])
def test_what_is_not_there(api: RestAPI, uid: str) -> None:
    for name in ("deidentified", "deidentification"):
        api.send("GET", f"/studies/{uid}/{name}", status=404)
