"""Worklist items and performed procedure steps over REST."""

from typing import Any

from restapi import LIMITED, RestAPI
from worklists import numbered

from pacs_server.audit.events import Action, EventID, Outcome
from pacs_server.dicom.caller import Role
from pacs_server.index.mpps import ProcedureStepIndex

FIELDS = {
    "PatientName": "Müller^Jörg", "PatientID": "P1", "AccessionNumber": "A1", "Modality": "CT",
    "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "2026-01-31",
    "ScheduledProcedureStepStartTime": "9:30", "ScheduledProcedureStepDescription": "Thorax",
}  # fmt: skip


def add(api: RestAPI, **fields: str) -> dict[str, Any]:
    (item,) = api.send("POST", "/worklist", {"fields": FIELDS | fields}, 201)["items"]
    found: dict[str, Any] = item
    return found


def test_items_are_added_listed_and_shown(api: RestAPI) -> None:
    first = add(api)
    assert (first["status"], first["source"], first["accession_number"]) == ("SCHEDULED", "rest", "A1")
    event = api.last_audited().event
    assert (event.event_id, event.action) == (EventID.ORDER_RECORD, Action.CREATE)
    second = add(api, AccessionNumber="A2", PatientID="P2", ScheduledStationAETitle="CT2")
    assert [item["id"] for item in api.get("/worklist")["items"]] == [second["id"], first["id"]]
    for narrowed in ("station=CT1", "accession_number=A1", "patient_id=P1", "date=20260131&patient_id=P1"):
        assert api.get(f"/worklist?{narrowed}")["items"] == [first], narrowed
    assert api.get("/worklist?status=CANCELLED")["items"] == []
    assert api.get(f"/worklist/{first['id']}") == first


def test_who_reads_items_is_recorded(api: RestAPI) -> None:
    item = add(api)
    api.get("/worklist", params={"patient_id": "P1", "station": "CT1", "status": "SCHEDULED"})
    event = api.last_audited().event
    assert (event.event_id, event.sop_class_uid) == (EventID.QUERY, "1.2.840.10008.5.1.4.31")
    asked = {"PatientID": "P1", "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStatus": "SCHEDULED"}
    assert (event.query, event.detail) == (asked, "1 match")
    api.get(f"/worklist/{item['id']}")
    event = api.last_audited().event
    assert (event.query["PatientID"], event.query["AccessionNumber"]) == ("P1", "A1")
    assert (event.query["StudyInstanceUID"], event.detail) == (item["study_instance_uid"], "1 match")
    api.send("GET", "/worklist/99", status=404)
    assert api.last_audited().event.outcome is Outcome.MINOR_FAILURE


def test_pages_of_items(api: RestAPI) -> None:
    api.archive.worklist.put([numbered(number) for number in range(1, 6)])
    page = api.get("/worklist?limit=2")
    seen = [item["id"] for item in page["items"]]
    while page["next"]:
        page = api.client.get(page["next"]).json()
        seen += [item["id"] for item in page["items"]]
    assert seen == [5, 4, 3, 2, 1]


def test_dicom_json_is_taken_and_a_known_item_updated(api: RestAPI) -> None:
    item = add(api)
    changed = item["data_set"] | {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}}
    answer = api.send("POST", "/worklist", {"data_set": changed}, 201)
    assert (answer["added"], answer["updated"]) == (0, 1)
    assert answer["items"][0]["data_set"]["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]


def test_an_item_is_replaced_unless_somebody_else_has_changed_it(api: RestAPI) -> None:
    item = add(api)
    path = f"/worklist/{item['id']}"
    etag = api.client.get(f"/api/v1{path}").headers["etag"]
    ids = {"RequestedProcedureID": item["requested_procedure_id"],
           "ScheduledProcedureStepID": item["scheduled_procedure_step_id"]}  # fmt: skip
    body = {"fields": FIELDS | ids | {"ScheduledStationAETitle": "CT9"}}
    changed = api.send("PUT", path, body, headers={"If-Match": etag})
    assert changed["data_set"]["00400100"]["Value"][0]["00400001"]["Value"] == ["CT9"]
    assert "read it again" in api.send("PUT", path, body, 412, headers={"If-Match": etag})["detail"]
    other = {"fields": FIELDS | ids | {"AccessionNumber": "A9"}}
    assert "identifiers" in api.send("PUT", path, other, 400)["detail"]


def test_a_change_between_the_look_and_the_commit_is_seen(api: RestAPI) -> None:
    worklist = api.archive.worklist
    worklist.put([numbered(1)])
    row = worklist.get("1")
    assert row is not None
    worklist.put([numbered(1, PatientName="Else")])
    body = {"data_set": dict(numbered(1, PatientName="Mine").data_set)}
    get = type(worklist).get
    try:
        type(worklist).get = lambda self, key: row  # type: ignore[method-assign, assignment, return-value]
        api.send("PUT", "/worklist/1", body, 412)
    finally:
        type(worklist).get = get  # type: ignore[method-assign]


def test_an_item_is_cancelled(api: RestAPI) -> None:
    item = add(api)
    assert api.send("POST", f"/worklist/{item['id']}/cancel")["status"] == "CANCELLED"
    assert api.last_audited().event.detail == "1 item CANCELLED"


def test_wrong_orders_are_refused_with_a_sentence(api: RestAPI) -> None:
    def refused(body: object) -> str:
        return str(api.send("POST", "/worklist", body, 400)["detail"])

    assert refused({}) == "send either fields or data_set"
    assert "PatientName" in refused({"fields": {}})
    assert "'ShoeSize'" in refused({"fields": FIELDS | {"ShoeSize": "42"}})
    assert "a date such as" in refused({"fields": FIELDS | {"ScheduledProcedureStepStartDate": "soon"}})
    assert "PS3.18 F.2" in refused({"data_set": {"x": {}}})
    assert refused({"order": 1}).startswith("order: ")
    assert "Müller" not in refused({"fields": FIELDS | {"ScheduledProcedureStepStartDate": "Müller"}})


def test_what_is_not_there_is_not_found(api: RestAPI) -> None:
    add(api)
    for key in ("2", "A1", "99999999999999999999", "01"):
        api.send("GET", f"/worklist/{key}", status=404)


def test_limited_callers_see_their_items_and_change_none(api: RestAPI) -> None:
    own = [add(api, AccessionNumber=f"M{number}", Modality="MR") for number in range(3)]
    foreign = [add(api, AccessionNumber=f"C{number}") for number in range(3)]
    api.act_as(Role.CONTRIBUTOR, LIMITED)
    page = api.get("/worklist?limit=2")
    assert [item["accession_number"] for item in page["items"]] == ["M2", "M1"]
    (last,) = api.client.get(page["next"]).json()["items"]
    assert last["accession_number"] == "M0"
    assert api.get("/worklist?accession_number=C1")["items"] == []
    assert api.get(f"/worklist/{last['id']}") == last
    # Plain ids would tell how many items there are that this caller does not see.
    assert {item["id"] for item in (*page["items"], last)}.isdisjoint(range(1, 1000))
    for item in own:
        api.send("GET", f"/worklist/{item['id']}", status=404)
    api.send("GET", f"/worklist/{foreign[0]['id']}", status=404)
    api.send("GET", "/steps", status=403)
    api.send("POST", "/worklist", {"fields": FIELDS}, 403)
    for item in (own[0], foreign[0]):
        api.send("POST", f"/worklist/{item['id']}/cancel", status=403)
        api.send("PUT", f"/worklist/{item['id']}", {"fields": FIELDS}, 403)


def test_steps(api: RestAPI) -> None:
    index = ProcedureStepIndex(api.archive.database)
    for number in (1, 2, 3):
        index.create(f"1.2.{number}", _step(number), "CT1", discontinued_returns=False)
    page = api.get("/steps?limit=2")
    assert [step["sop_instance_uid"] for step in page["items"]] == ["1.2.3", "1.2.2"]
    assert [step["sop_instance_uid"] for step in api.client.get(page["next"]).json()["items"]] == ["1.2.1"]
    assert api.get("/steps?status=COMPLETED")["items"] == []
    shown = api.get("/steps/1.2.1")
    assert (shown["status"], shown["calling_ae"], shown["missing"]) == ("IN PROGRESS", "CT1", [])
    assert shown["data_set"]["00400253"]["Value"] == ["PPS1"]
    api.send("GET", "/steps/1.2.9", status=404)


def test_who_reads_steps_is_recorded(api: RestAPI) -> None:
    step = _step(1) | {"00100020": {"vr": "LO", "Value": ["P1"]}}
    ProcedureStepIndex(api.archive.database).create("1.2.1", step, "CT1", discontinued_returns=False)
    api.get("/steps?status=COMPLETED")
    event = api.last_audited().event
    assert (event.event_id, event.sop_class_uid) == (EventID.QUERY, "1.2.840.10008.3.1.2.3.4")
    assert (event.query, event.detail) == ({"PerformedProcedureStepStatus": "COMPLETED"}, "0 matches")
    api.get("/steps/1.2.1")
    event = api.last_audited().event
    assert (event.event_id, event.action, event.detail) == (EventID.PROCEDURE_RECORD, Action.READ, "1.2.1")
    assert [subject.patient_id for subject in event.subjects] == ["P1"]
    api.send("GET", "/steps/1.2.9", status=404)
    assert api.last_audited().event.outcome is Outcome.MINOR_FAILURE


def _step(number: int) -> dict[str, Any]:
    return {
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00400252": {"vr": "CS", "Value": ["IN PROGRESS"]},
        "00400253": {"vr": "SH", "Value": [f"PPS{number}"]},
    }
