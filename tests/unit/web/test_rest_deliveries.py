"""Sending over REST: what is sent and became of it, remotes, and that limits hold."""

from typing import Any

import pytest
from restapi import LIMITED, RestAPI

from pacs_server.audit.events import EventType
from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.caller import Role


@pytest.fixture
def api(api: RestAPI) -> RestAPI:
    remotes = tuple(RemoteAEConfig(ae_title=name, host="127.0.0.1", port=104) for name in ("WS1", "WS2"))
    api.config = api.config.model_copy(update={"remote_aes": remotes})
    return api


def test_a_study_is_sent_and_its_deliveries_are_listed(api: RestAPI) -> None:
    study = api.study(2, 2)
    uid, series = str(study[0].StudyInstanceUID), str(study[0].SeriesInstanceUID)
    sent = api.send("POST", "/deliveries", {"remotes": ["WS1", "WS2"], "study": uid}, status=202)["items"]
    assert [(each["remote"], each["instances"]) for each in sent] == [("WS1", 4), ("WS2", 4)]
    task = api.get(f"/tasks/{sent[0]['task']}")
    assert (task["kind"], task["target"], task["created_by"], task["progress"]) == ("forward", "WS1", "ann", {})
    page = api.get("/deliveries?limit=3&remote=WS1")
    rows = page["items"]
    while page["next"]:
        page = api.client.get(page["next"]).json()
        rows += page["items"]
    assert sorted(row["sop_instance_uid"] for row in rows) == sorted(str(ds.SOPInstanceUID) for ds in study)
    assert {(row["state"], row["caused_by"], row["status"]) for row in rows} == {("waiting", "ann", None)}
    body = {"remotes": ["WS1"], "study": uid, "series": [series], "priority": "urgent"}
    # The study waits already, so that one task sends it.
    assert api.send("POST", "/deliveries", body, status=202)["items"][0]["task"] == sent[0]["task"]
    api.send("POST", "/deliveries", {"remotes": ["WS3"], "study": uid}, status=404)
    api.send("POST", "/deliveries", {"remotes": ["WS1"], "study": "1.2.99"}, status=404)
    assert len(api.get(f"/deliveries?study={uid}")["items"]) == 8
    assert api.get("/deliveries?state=dead")["items"] == []


def test_remotes_are_paused_resumed_and_replaced(api: RestAPI) -> None:
    uid = str(api.study()[0].StudyInstanceUID)
    api.send("POST", "/deliveries", {"remotes": ["WS1"], "study": uid}, status=202)
    paused = api.send("POST", "/remotes/WS1/pause")
    assert (paused["state"], paused["reason"], paused["waiting"]) == ("paused", "WS1 is paused by ann", 1)
    event = api.last_audited().event
    assert (event.event_type, event.detail) == (EventType.USE_OF_RESTRICTED_FUNCTION, "remote WS1 paused")
    (moved,) = api.send("POST", "/remotes/WS1/retarget", {"to": "WS2"})["tasks"]
    assert api.get(f"/tasks/{moved}")["target"] == "WS2"
    assert api.last_audited().event.detail == "what waits for WS1 goes to WS2"
    assert api.send("POST", "/remotes/WS1/resume")["state"] == "ready"
    counts = [(each["name"], each["waiting"]) for each in api.get("/outgoing")["items"]]
    assert counts == [("WS1", 0), ("WS2", 1)]
    api.send("POST", "/remotes/WS1/retarget", {"to": "WS1"}, status=409)
    for what in ("pause", "resume"):
        api.send("POST", f"/remotes/WS9/{what}", status=404)


def test_who_sees_a_part_sends_and_sees_that(api: RestAPI) -> None:
    hidden, shown = api.study(1, 2, Modality="CT"), api.study(1, 1, Modality="MR")
    for study in (hidden, shown):
        api.send("POST", "/deliveries", {"remotes": ["WS1"], "study": str(study[0].StudyInstanceUID)}, status=202)
    ids = {row["id"] for row in api.get("/deliveries")["items"]}
    api.act_as(Role.CONTRIBUTOR, LIMITED)

    def send(study: Any, status: int) -> Any:
        body = {"remotes": ["WS1"], "study": str(study[0].StudyInstanceUID)}
        return api.send("POST", "/deliveries", body, status=status)

    send(hidden, 404)
    assert send(shown, 202)["items"][0]["instances"] == 1
    (row,) = api.get("/deliveries")["items"]
    assert row["sop_instance_uid"] == str(shown[0].SOPInstanceUID)
    assert row["id"] not in ids
    assert api.get(f"/deliveries?study={hidden[0].StudyInstanceUID}")["items"] == []
    api.act_as(Role.OPERATOR, LIMITED)
    for path in ("/remotes/WS1/pause", "/remotes/WS1/resume"):
        api.send("POST", path, status=403)
    api.send("GET", "/outgoing", status=403)
    api.act_as(Role.READER)
    send(shown, 403)


def test_what_waits_is_told_by_study_and_decided_together(api: RestAPI) -> None:
    one, other = (str(api.study(1, 2)[0].StudyInstanceUID) for _ in range(2))
    for uid in (one, other):
        api.send("POST", "/deliveries", {"remotes": ["WS1", "WS2"], "study": uid}, status=202)
    found = api.get("/deliveries/groups?remote=WS1")
    assert [(row["study_instance_uid"], row["state"], row["instances"]) for row in found["items"]] == [
        (other, "waiting", 2),
        (one, "waiting", 2),
    ]
    assert found["complete"]
    assert not api.get("/deliveries/groups?limit=1")["complete"]
    body = {"remote": "WS1", "study": one, "rule": ""}
    assert api.send("POST", "/deliveries/cancel", body) == {"tasks": 1}
    event = api.last_audited().event
    assert event.event_type is EventType.USE_OF_RESTRICTED_FUNCTION
    assert event.detail == f"what waits for WS1 of study {one} by rule (none) cancelled"
    assert [row["study_instance_uid"] for row in api.get("/deliveries/groups?remote=WS1")["items"]] == [other]
    # Both remotes have their own.
    assert len(api.get("/deliveries/groups?remote=WS2")["items"]) == 2
    assert api.send("POST", "/deliveries/retry", {"remote": "WS2"}) == {"tasks": 2}
    assert api.last_audited().event.detail == "what waits for WS2 tried again now"
    assert api.send("POST", "/deliveries/retry", {"remote": "WS2", "rule": "night"}) == {"tasks": 0}
