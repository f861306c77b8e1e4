"""Tasks, associations, conflicts and the trash over REST: what operators do, and that the audit trail tells who."""

from typing import Any

from datasets import make_ct, uid
from restapi import RestAPI

from pacs_server.audit.events import EventID, EventType
from pacs_server.dicom.caller import Caller, Door, Role
from pacs_server.index.task_values import NewTask
from pacs_server.services.associations import Traffic

# ------------------------------------------------------------------------------------ tasks


def test_tasks_are_listed_retried_and_cancelled(api: RestAPI) -> None:
    keys = [api.archive.tasks.add(NewTask("send", "a test", f"T{number}")) for number in range(3)]
    page = api.get("/tasks?limit=2")
    assert [task["id"] for task in page["items"]] == keys[:0:-1]
    assert [task["id"] for task in api.client.get(page["next"]).json()["items"]] == keys[:1]
    assert api.get(f"/tasks/{keys[0]}")["target"] == "T0"
    assert api.send("POST", f"/tasks/{keys[0]}/cancel")["state"] == "cancelled"
    event = api.last_audited().event
    assert (event.event_type, event.detail) == (EventType.USE_OF_RESTRICTED_FUNCTION, f"send task {keys[0]} cancelled")
    assert "over" in api.send("POST", f"/tasks/{keys[0]}/cancel", status=409)["detail"]
    assert api.send("POST", f"/tasks/{keys[0]}/retry")["state"] == "ready"
    assert api.last_audited().event.detail == f"send task {keys[0]} retried"
    assert [task["id"] for task in api.get("/tasks?state=ready&target=T1")["items"]] == [keys[1]]
    assert api.get("/tasks?state=dead&state=cancelled")["items"] == []
    for key in ("99", "x", "9" * 30):
        api.send("GET", f"/tasks/{key}", status=404)


# ------------------------------------------------------------------------------------ associations


def test_associations_open_and_recent(api: RestAPI) -> None:
    assert api.get("/associations")["items"][0]["bytes_out"] == 20
    caller = Caller(Door.DIMSE, "10.0.0.7", "CT1", "PACS")
    api.recent.ended(caller, "released", {"C-STORE": 3}, Traffic(100, 10, 2.5))
    api.recent.refused("10.0.0.8", "calling_ae_title", calling_ae="EVIL", called_ae="PACS", tls=False)
    refused, ended = api.get("/associations/recent")["items"]
    assert (refused["calling_ae"], refused["refused"], refused["outcome"]) == ("EVIL", True, "calling_ae_title")
    assert (ended["operations"], ended["bytes_in"], ended["outcome"]) == ({"C-STORE": 3}, 100, "released")
    assert api.get("/associations/recent?refused=false")["items"] == [ended]
    assert api.get("/associations/recent?limit=1")["items"] == [refused]


def test_peers_seen(api: RestAPI) -> None:
    for title, outcome in (("CT1", "accepted"), ("EVIL", "calling_ae_title")):
        caller = Caller(Door.DIMSE, "10.0.0.7", title, "PACS")
        api.archive.peers.saw(caller, outcome, implementation_version_name="X1")
    api.archive.peers.write()
    assert {peer["calling_ae"] for peer in api.get("/peers")["items"]} == {"CT1", "EVIL"}
    assert [peer["outcome"] for peer in api.get("/peers?rejected=true")["items"]] == ["calling_ae_title"]


# ------------------------------------------------------------------------------------ conflicts


def _two_people(api: RestAPI) -> list[dict[str, Any]]:
    api.store([make_ct(PatientID="P1", PatientName="Doe^Jane"), make_ct(PatientID="P1", PatientName="Other^Sam")])
    (group,) = api.get("/conflicts")["patients"]
    people: list[dict[str, Any]] = group
    return people


def test_patients_are_merged_in_the_callers_name(api: RestAPI) -> None:
    jane, sam = _two_people(api)
    asked = {"source": sam["reference"], "target": jane["reference"], "reason": "a typing error"}
    tried = api.send("POST", "/conflicts/merge", asked | {"dry_run": True})
    assert (len(tried["studies"]), len(api.get("/conflicts")["patients"])) == (1, 1)
    assert api.send("POST", "/conflicts/merge", asked) == tried
    event = api.last_audited().event
    assert (event.event_id, event.detail) == (EventID.PATIENT_RECORD, "merged, change 1: a typing error")
    assert api.get("/conflicts")["patients"] == []
    people = api.get("/conflicts/patients", params={"patient": "P1"})["items"]
    assert [(person["patient_name"], person["merged"]) for person in people] == [
        ("Doe^Jane", False),
        ("Other^Sam", True),
    ]
    assert "no patient" in api.send("POST", "/conflicts/merge", asked, 409)["detail"]


def test_a_study_is_reassigned_in_the_callers_name(api: RestAPI) -> None:
    jane, _ = _two_people(api)
    (moved,) = api.get("/studies", params={"PatientName": "Other^Sam"})["items"]
    asked = {"study": moved["StudyInstanceUID"], "target": jane["reference"], "reason": "wrong patient"}
    assert api.send("POST", "/conflicts/reassign", asked)["studies"] == [moved["StudyInstanceUID"]]
    assert api.last_audited().event.detail == "reassigned, change 1: wrong patient"
    study = api.get(f"/studies/{moved['StudyInstanceUID']}")
    assert study["PatientName"] == "Doe^Jane"
    people = api.get("/conflicts/patients", params={"study": moved["StudyInstanceUID"]})["items"]
    assert [person["patient_name"] for person in people] == ["Doe^Jane", "Other^Sam"]


def test_who_sees_patients_in_conflict_is_recorded(api: RestAPI) -> None:
    source, target = _two_people(api)
    event = api.last_audited().event
    assert (event.event_id, event.sop_class_uid) == (EventID.QUERY, "1.2.840.10008.5.1.4.1.2.1.1")
    assert (event.query, event.detail) == ({}, "2 matches")
    api.get("/conflicts/patients", params={"patient": "P1"})
    event = api.last_audited().event
    assert (event.event_id, event.query, event.detail) == (EventID.QUERY, {"PatientID": "P1"}, "2 matches")
    asked = {"source": source["reference"], "target": target["reference"], "reason": "same", "dry_run": True}
    api.send("POST", "/conflicts/merge", asked)
    event = api.last_audited().event
    assert (event.query, event.detail) == ({"PatientID": "P1"}, "1 match")


def test_a_reason_is_needed(api: RestAPI) -> None:
    for reason in ("", "  "):
        body = {"source": "P1", "target": "P2", "reason": reason}
        assert api.send("POST", "/conflicts/merge", body, 400)["detail"].startswith("reason: ")


def test_a_study_that_came_with_two_patients_is_a_conflict(api: RestAPI) -> None:
    study = uid()
    api.store([make_ct(study, PatientID="P1", PatientName="A^B"), make_ct(study, PatientID="P2", PatientName="C^D")])
    (group,) = api.get("/conflicts")["studies"]
    assert [each["patient"]["patient_id"] for each in group] == ["P1", "P2"]


# ------------------------------------------------------------------------------------ trash


def _deleted(api: RestAPI, level: str, name: str, number: int = 1) -> dict[str, Any]:
    body = {"level": level, "uid": name, "reason": f"reason {number}"}
    deletion: dict[str, Any] = api.send("POST", "/trash", body, 201)
    return deletion


def test_a_study_is_deleted_and_restored(api: RestAPI) -> None:
    instances = api.study(1, 2)
    deletion = _deleted(api, "study", instances[0].StudyInstanceUID)
    assert (deletion["instances"], deletion["deleted_by"], deletion["status"]) == (2, "ann", "KEPT")
    assert api.last_audited().event.event_id is EventID.STUDY_DELETED
    assert api.get("/studies")["items"] == []
    assert api.get("/trash")["items"] == [deletion | {"whose": None}]
    assert api.get(f"/trash/{deletion['id']}")["reason"] == "reason 1"
    assert api.send("POST", f"/trash/{deletion['id']}/restore") == {"instances": 2, "conflicts": [], "missing": []}
    assert api.last_audited().event.detail.startswith("restored from the trash")
    assert len(api.get("/instances")["items"]) == 2
    api.send("POST", f"/trash/{deletion['id']}/restore", status=404)


def test_pages_of_the_trash(api: RestAPI) -> None:
    deletions = [_deleted(api, "instance", ds.SOPInstanceUID, number) for number, ds in enumerate(api.study(1, 3))]
    names = sorted((deletion["id"] for deletion in deletions), reverse=True)
    page = api.get("/trash?limit=2")
    assert [each["id"] for each in page["items"]] == names[:2]
    api.send("DELETE", f"/trash/{names[1]}", status=204)
    assert [each["id"] for each in api.client.get(page["next"]).json()["items"]] == names[2:]


def test_only_administrators_purge(api: RestAPI) -> None:
    first, second = (_deleted(api, "instance", ds.SOPInstanceUID) for ds in api.study(1, 2))
    api.act_as(Role.OPERATOR)
    api.send("DELETE", f"/trash/{first['id']}", status=403)
    api.send("POST", "/trash/purge", {"older_than_days": 0}, 403)
    api.act_as(Role.ADMINISTRATOR)
    api.send("DELETE", f"/trash/{first['id']}", status=204)
    assert api.last_audited().event.detail.startswith("removed from the trash for good")
    api.send("DELETE", f"/trash/{first['id']}", status=404)
    assert api.send("POST", "/trash/purge", {"older_than_days": 1}) == {"deletions": []}
    assert [each["id"] for each in api.send("POST", "/trash/purge", {"older_than_days": 0})["deletions"]] == [
        second["id"]
    ]
    assert api.get("/trash")["items"] == []


def test_what_is_not_stored_cannot_be_deleted(api: RestAPI) -> None:
    body = {"level": "study", "uid": "1.2.3", "reason": "why"}
    assert "no study of this UID" in api.send("POST", "/trash", body, 404)["detail"]
    assert api.send("POST", "/trash", body | {"level": "patient"}, 400)["detail"].startswith("level: ")
