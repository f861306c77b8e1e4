"""Patients, studies, series and instances: lists, search, pages, and what is known of one."""

import io
import zipfile

from restapi import LIMITED, RestAPI

from pacs_server.audit.events import EventID
from pacs_server.dicom.caller import Role

CT = "1.2.840.10008.5.1.4.1.1.2"


def test_lists_show_what_is_stored_the_newest_first(api: RestAPI) -> None:
    first = api.study(2, 2, PatientID="P1", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192")[0]
    second = api.study(PatientID="P2", PatientName="Smith^John", StudyDate="20260102")[0]
    studies = api.get("/studies")
    assert [row["StudyInstanceUID"] for row in studies["items"]] == [second.StudyInstanceUID, first.StudyInstanceUID]
    assert studies["next"] is None
    row = studies["items"][1]
    assert (row["PatientName"], row["ModalitiesInStudy"]) == ("Müller^Jörg", ["CT"])
    assert (row["NumberOfStudyRelatedSeries"], row["NumberOfStudyRelatedInstances"]) == (2, 4)
    assert [len(api.get(f"/{each}")["items"]) for each in ("patients", "series", "instances")] == [2, 3, 5]


def test_keys_match_as_those_of_a_query(api: RestAPI) -> None:
    api.study(PatientID="P1", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192", AccessionNumber="A1")
    api.study(PatientID="P2", PatientName="Smith^John", StudyDate="20260102", AccessionNumber="")

    def found(**keys: str) -> list[str]:
        return [row["PatientID"] for row in api.get("/studies", params=keys)["items"]]

    assert found(PatientName="MULLER*") == ["P1"]
    assert found(PatientName="jorg", fuzzymatching="true") == ["P1"]
    assert found(StudyDate="20260101-20261231") == ["P2"]
    assert found(AccessionNumber="A1") == ["P1"]
    assert found(ModalitiesInStudy="CT") == ["P2", "P1"]
    assert found(PatientName="nobody*") == []
    assert [row["PatientID"] for row in api.get("/series", params={"PatientID": "P2"})["items"]] == ["P2"]


def test_pages_follow_each_other_while_more_arrives(api: RestAPI) -> None:
    stored = [str(api.study(PatientID=f"P{number}")[0].StudyInstanceUID) for number in range(5)]
    answer = api.client.get("/api/v1/studies?limit=2&PatientName=Test*")
    seen = [row["StudyInstanceUID"] for row in answer.json()["items"]]
    assert answer.links["next"]["url"] == answer.json()["next"]
    api.study(PatientID="P6")
    while (address := answer.json()["next"]) is not None:
        assert address.startswith("http://127.0.0.1:8080/api/v1/studies?")
        assert "PatientName=Test%2A" in address
        answer = api.client.get(address)
        seen += [row["StudyInstanceUID"] for row in answer.json()["items"]]
    assert seen == stored[::-1]


def test_studies_are_found_by_their_marks(api: RestAPI) -> None:
    stored = [str(api.study(PatientID=f"P{number}")[0].StudyInstanceUID) for number in range(5)]
    for number, body in enumerate(
        [
            {"add_labels": ["night", "chest"]},
            {"add_labels": ["night"], "assigned_to": "ann"},
            {"reading": "read"},
            {"add_labels": ["night", "chest"], "reading": "read"},
        ]
    ):
        api.send("POST", f"/studies/{stored[number]}/marks", body)

    def found(path: str, **asked: object) -> list[int]:
        key = "study" if path == "/marks" else "StudyInstanceUID"
        return [stored.index(row[key]) for row in api.get(path, params=asked)["items"]]

    for path in ("/studies", "/marks"):
        assert found(path, label="night") == [3, 1, 0]
        assert found(path, label=["night", "chest"]) == [3, 0]
        assert found(path, label="night", reading="read") == [3]
        assert found(path, reading="unread") == [4, 1, 0]
        assert found(path, assigned_to="ann", reading="unread") == [1]
        assert found(path, assigned_to="") == [4, 3, 2, 0]
        assert found(path, label="none") == []
    assert found("/studies", label="night", PatientID="P1") == [1]
    first = api.get("/studies", params={"label": ["night", "chest"], "limit": 1})
    (row,) = api.client.get(first["next"]).json()["items"]
    assert (row["labels"], row["assigned_to"], row["reading"]) == (["chest", "night"], "", "unread")
    assert api.get(f"/studies/{stored[1]}")["assigned_to"] == "ann"
    assert "label" in api.send("GET", "/marks", status=400)["detail"]


def test_one_study_tells_how_much_of_it_is_stored(api: RestAPI) -> None:
    instances = api.study(2, 3)
    found = api.get(f"/studies/{instances[0].StudyInstanceUID}")
    assert found["StudyInstanceUID"] == instances[0].StudyInstanceUID
    stored = found["stored"]
    assert stored["instances"] == 6
    assert stored["bytes"] > 6 * 2048
    assert stored["first_received_at"] <= stored["last_received_at"]
    assert api.get(f"/series/{instances[0].SeriesInstanceUID}")["stored"]["instances"] == 3
    (patient,) = api.get("/patients")["items"]
    assert api.get(f"/patients/{patient['reference']}")["stored"]["instances"] == 6
    assert api.get(f"/instances/{instances[0].SOPInstanceUID}")["SOPClassUID"] == CT


def test_what_is_not_there_is_not_found(api: RestAPI) -> None:
    api.study()
    (patient,) = api.get("/patients")["items"]
    another = f"/patients/{patient['reference'][:-4]}0000"
    for path in ("/studies/1.2.3", "/series/1.2.3", "/instances/1.2.3", "/studies/*", "/patients/P1", another,
                 "/patients/@99-abcd", "/instances/1.2.3/file"):  # fmt: skip
        assert api.send("GET", path, status=404)["detail"].startswith(("there is no", "that is no")), path


def test_operators_see_the_file_of_an_instance(api: RestAPI) -> None:
    (ds,) = api.study()
    found = api.get(f"/instances/{ds.SOPInstanceUID}/file")
    path = api.config.storage.directory / found["path"]
    assert found["size"] == path.stat().st_size
    assert (found["calling_ae"], found["address"], found["version"]) == ("CT1", "10.0.0.7", 1)
    assert len(found["sha256"]) == 64
    api.act_as(Role.CONTRIBUTOR)
    api.send("GET", f"/instances/{ds.SOPInstanceUID}/file", status=403)


def test_the_tags_of_an_instance_are_shown_and_recorded(api: RestAPI) -> None:
    (ds,) = api.study(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192", rows=64, columns=64)
    answer = api.client.get(f"/api/v1/instances/{ds.SOPInstanceUID}/tags")
    assert answer.headers["content-type"] == "application/dicom+json"
    tags = answer.json()
    assert tags["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]}
    url = f"studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    assert tags["7FE00010"]["BulkDataURI"].startswith(f"http://127.0.0.1:8080/dicom-web/{url}")
    event = api.last_audited().event
    assert (event.event_id, event.detail) == (EventID.INSTANCES_TRANSFERRED, "1 of 1 sent, 0 failed")
    api.send("GET", "/instances/1.2.3/tags", status=404)
    api.send("GET", "/instances/x/tags", status=404)
    api.act_as(Role.READER, LIMITED)
    api.send("GET", f"/instances/{ds.SOPInstanceUID}/tags", status=404)


def test_lists_are_recorded_as_queries(api: RestAPI) -> None:
    api.study()
    api.get("/studies", params={"PatientID": "P1"})
    event = api.last_audited().event
    assert event.event_id is EventID.QUERY
    assert (event.query, event.detail) == ({"PatientID": "P1"}, "1 match")


def test_parameters_that_nobody_knows_are_refused(api: RestAPI) -> None:
    for query, what in (
        ("PatientNme=x", "there is no parameter 'PatientNme'"), ("limit=0", "limit: "), ("limit=1001", "limit: "),
        ("after=x", "after: "), ("limit=1&limit=2", "limit is given more than once"), ("offset=5", "no parameter"),
        ("StudyDate=yesterday", "StudyDate"),
    ):  # fmt: skip
        assert what in api.send("GET", f"/studies?{query}", status=400)["detail"], query


def test_a_limited_caller_learns_no_ids_of_rows(api: RestAPI) -> None:
    instances = [api.study(PatientID=f"P{number}", Modality="MR")[0] for number in range(3)]
    plain = {row["PatientID"]: row["reference"] for row in api.get("/patients")["items"]}
    assert [plain[f"P{number}"].partition("-")[0] for number in range(3)] == ["@1", "@2", "@3"]
    api.act_as(Role.READER, LIMITED)
    found, address = [], "/api/v1/instances?limit=1"
    while address:
        page = api.client.get(address).json()
        found += [row["SOPInstanceUID"] for row in page["items"]]
        address = page["next"]
        assert address is None or int(address.rpartition("after=")[2]) > 1000
    assert found == [ds.SOPInstanceUID for ds in reversed(instances)]
    for row in api.get("/patients")["items"]:
        hidden = row["reference"]
        assert len(hidden.partition("-")[0]) > 5
        assert api.get(f"/patients/{hidden}")["PatientID"] == row["PatientID"]
        api.send("GET", f"/patients/{plain[row['PatientID']]}", status=404)
    assert "list from the start" in api.send("GET", "/instances?after=2", status=400)["detail"]


def test_a_limited_caller_sees_only_its_part(api: RestAPI) -> None:
    ct = api.study(PatientID="P1")[0]
    mr = api.study(PatientID="P2", Modality="MR")[0]
    api.act_as(Role.READER, LIMITED)
    for path in ("/patients", "/studies", "/series", "/instances"):
        assert [row["PatientID"] for row in api.get(path)["items"]] == ["P2"], path
    assert api.get(f"/studies/{mr.StudyInstanceUID}")["stored"]["instances"] == 1
    for path in (
        f"/studies/{ct.StudyInstanceUID}",
        f"/series/{ct.SeriesInstanceUID}",
        f"/instances/{ct.SOPInstanceUID}",
    ):
        api.send("GET", path, status=404)


def test_the_list_that_people_search(api: RestAPI) -> None:
    for number, name in enumerate(("Doe^Jane", "Doe^John", "Smith^Ann")):
        api.study(
            PatientID=f"P{number}", PatientName=name, StudyDate=f"2026030{number + 1}", AccessionNumber=f"A{number}"
        )

    def found(**asked: str) -> list[str]:
        return [row["PatientID"] for row in api.get("/study-list", params=asked)["items"]]

    assert found() == ["P2", "P1", "P0"]
    assert found(text="doe jan") == ["P0"]
    assert found(date_from="20260302", sort="name", ascending="true") == ["P1", "P2"]
    assert found(received_from="2999-01-01T00:00:00Z") == []
    row = api.get("/study-list", params={"text": "smith"})["items"][0]
    assert (row["reading"], row["labels"], row["received_at"][:2]) == ("unread", [], "20")
    first = api.get("/study-list", params={"text": "doe", "limit": "1"})
    assert (first["total"], [each["PatientID"] for each in first["items"]]) == (2, ["P1"])
    second = api.get("/study-list", params={"text": "doe", "limit": "1", "after": first["after"]})
    assert ([each["PatientID"] for each in second["items"]], second["next"], second["total"]) == (["P0"], None, None)
    api.send("POST", f"/studies/{first['items'][0]['StudyInstanceUID']}/marks", {"add_labels": ["knee"]})
    for sort, ids in {"images": "012", "labels": "120", "modality": "210", "series": "012"}.items():
        listed, after = "", ""
        while after is not None:
            page = api.get("/study-list", params={"sort": sort, "limit": "1", "after": after})
            listed, after = listed + page["items"][0]["PatientID"][1:], page["after"]
        assert listed == ids, sort
    for wrong in ("x", "bnVsbA", "WyJhIiwgMV0", "WzEsIDIsIDNd", "WyJhIiwgImIiLCAtMV0", "WyJhIiwgImIiLCAiYyJd"):
        assert api.client.get(f"/api/v1/study-list?after={wrong}").status_code == 400, wrong


def test_places_in_the_list_that_people_search_are_hidden_from_callers_with_limits(api: RestAPI) -> None:
    for number in range(3):
        api.study(PatientID=f"P{number}", Modality="CT" if number else "MR")
    api.act_as(Role.READER, LIMITED)
    page = api.get("/study-list", params={"limit": "1"})
    rest = api.get("/study-list", params={"limit": "5", "after": page["after"]}) if page["after"] else {"items": []}
    seen = {row["PatientID"] for row in [*page["items"], *rest["items"]]}
    assert seen == {row["PatientID"] for row in api.get("/studies")["items"]}
    plain = "WyIiLCAiIiwgMl0"
    assert api.client.get(f"/api/v1/study-list?after={plain}").status_code == 400


def test_several_studies_are_one_download(api: RestAPI) -> None:
    first, second = (str(api.study(2, PatientID=f"P{number}", Modality="MR")[0].StudyInstanceUID) for number in (1, 2))
    foreign = str(api.study(PatientID="P3", Modality="CT")[0].StudyInstanceUID)

    def download(*studies: str, status: int = 200) -> list[str]:
        answer = api.client.post("/api/v1/downloads", json={"studies": studies})
        assert answer.status_code == status, answer.text
        if status != 200:
            return []
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            return archive.namelist()

    assert len(download(first, second, first)) == 5
    event = api.last_audited().event
    assert (event.event_id, event.detail) == (EventID.INSTANCES_TRANSFERRED, "2 of 2 sent, 0 failed")
    api.act_as(Role.READER, LIMITED)
    assert len(download(first, foreign)) == 3
    download(foreign, "x", status=404)
    download(*["1.2.3"] * 201, status=400)
