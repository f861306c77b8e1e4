"""Status, storage, configuration and the audit trail over REST."""

from pathlib import Path

from pydantic import SecretStr
from restapi import LIMITED, RestAPI

from pacs_server.audit.events import EventID
from pacs_server.config.secrets import SECRETS
from pacs_server.dicom.caller import Role


def test_the_status_is_for_everybody_and_its_sections_for_operators(api: RestAPI) -> None:
    api.act_as(Role.READER)
    assert api.get("/status") == {
        "version": "1.2.3", "ae_title": "PACS", "ready": True, "not_ready": None,
        "counts": {"patients": 1, "studies": 1, "series": 1, "instances": 1},
    }  # fmt: skip
    api.send("GET", "/server", status=403)
    api.act_as(Role.OPERATOR)
    assert api.get("/server")["sections"]["storage"]["directory"] == "/data"
    assert (api.get("/storage")["days_left"], api.get("/storage")["bytes_per_day"]) == (3.5, 0.5)


def test_a_limited_caller_learns_no_counts(api: RestAPI) -> None:
    api.act_as(Role.READER, LIMITED)
    assert api.get("/status")["counts"] is None


def test_the_configuration_is_shown_without_secrets(api: RestAPI) -> None:
    audit = api.config.audit.model_copy(update={"key": SecretStr("k" * 40)})
    api.config = api.config.model_copy(update={"audit": audit})
    answer = api.client.get("/api/v1/configuration")
    assert "k" * 40 not in answer.text
    shown = {each["key"]: each for each in answer.json()["settings"]}
    told = {name: shown["audit.key"].pop(name) for name in ("default", "values", "explanation")}
    assert told["default"] == "`null`"
    assert "MAC" in told["explanation"] or "key" in told["explanation"]
    assert shown["audit.key"] == {
        "key": "audit.key", "value": None, "secret": True, "is_set": True, "origin": "default",
        "needs_restart": shown["audit.key"]["needs_restart"],
    }  # fmt: skip
    assert all(shown[key]["value"] is None for key in SECRETS)
    assert shown["storage.directory"]["value"] == str(api.config.storage.directory)
    assert (shown["server.port"]["needs_restart"], shown["storage.min_free_space"]["needs_restart"]) == (True, False)
    assert answer.json()["waiting_for_restart"] == ["server.port"]


def test_the_audit_trail_is_searched_page_by_page(api: RestAPI) -> None:
    for number in range(3):
        api.study(PatientID=f"P{number}")
        api.get("/studies", params={"PatientID": f"P{number}"})
    found = api.get("/audit?patient=P1")["items"]
    assert [record["event_name"] for record in found] == ["Query"]
    page = api.get("/audit?user=ann&limit=2")
    sequences = [record["sequence"] for record in page["items"]]
    follow = page["next"]
    assert "first=" in follow
    page = api.client.get(follow).json()
    sequences += [record["sequence"] for record in page["items"]]
    assert sequences == sorted(set(sequences))
    assert len(sequences) == 4
    record = api.last_audited()
    assert record.event.event_id is EventID.AUDIT_LOG_USED
    assert "user=ann" in record.event.detail


def test_without_an_audit_trail_there_is_nothing_to_search(tmp_path: Path) -> None:
    api = RestAPI(tmp_path)
    try:
        trail = next(each.run.__self__ for each in api.door.operations if each.name == "search_audit_trail")  # type: ignore[union-attr]
        trail._found = None
        assert "switched off" in api.send("GET", "/audit", status=404)["detail"]
    finally:
        api.close()
