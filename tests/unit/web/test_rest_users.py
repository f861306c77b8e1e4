"""Users and API keys over REST."""

import json
from typing import Any

import pytest
from restapi import RestAPI

from pacs_server.audit.events import EventType
from pacs_server.config.users import HASHER, read_users
from pacs_server.dicom.caller import Role

JANE = {"name": "jane/doe", "password": "correct horse", "role": "reader"}


def test_users_come_change_and_go(api: RestAPI) -> None:
    assert api.get("/users") == {"items": []}
    limited = JANE | {"modalities": ["CT"], "patients": ["P1", "P2^^^HOSP"]}
    shown = api.send("POST", "/users", limited, 201)
    assert shown == {"name": "jane/doe", "role": "reader", "modalities": ["CT"], "ae_titles": [],
                     "patients": ["P1", "P2^^^HOSP"]}  # fmt: skip
    assert api.get("/users")["items"] == [shown]
    event = api.last_audited().event
    assert event.event_type is EventType.USER_SECURITY_ATTRIBUTES_CHANGED
    assert event.detail == "user jane/doe added as reader limited to CT, 2 patients"
    assert [subject.patient_id for subject in event.subjects] == ["P1", "P2"]
    changed = api.send("PUT", "/users/jane%2Fdoe/rights", {"role": "operator"})
    assert (changed["role"], changed["modalities"]) == ("operator", [])
    api.send("PUT", "/users/jane%2Fdoe/password", {"password": "battery staple"}, 204)
    user = read_users(api.config.user_identity.users_path)["jane/doe"]
    assert HASHER.verify(user.hashed, b"battery staple")
    api.send("DELETE", "/users/jane%2Fdoe", status=204)
    assert api.last_audited().event.detail == "user jane/doe removed"
    assert api.get("/users") == {"items": []}


def test_wrong_users_are_refused_and_not_recorded(api: RestAPI) -> None:
    api.send("POST", "/users", JANE, 201)
    before = len(api.audited())
    for wrong, what in (
        ({}, "already"), ({"name": "a:b"}, "a user name has"), ({"password": "short"}, "password"),
        ({"role": "king"}, "role"), ({"name": "x", "role": "operator", "modalities": ["CT"]}, "can have limits"),
        ({"name": "x", "modalities": ["\\"]}, "printable"), ({"shoe_size": 42}, "shoe_size"),
    ):  # fmt: skip
        answer = api.send("POST", "/users", JANE | wrong, 400)
        assert what in answer["detail"], wrong
        assert "correct horse" not in json.dumps(answer)
        assert "short" not in answer["detail"].replace("shorter", "")
    for method, path, body in (
        ("DELETE", "/users/bob", None), ("PUT", "/users/bob/password", {"password": "12345678"}),
        ("PUT", "/users/bob/rights", {"role": "reader"}),
    ):  # fmt: skip
        api.send(method, path, body, 404)
    assert len(api.audited()) == before


def test_keys_are_shown_once_and_work_until_they_are_revoked(api: RestAPI) -> None:
    asked = {"name": "script", "role": "reader", "modalities": ["MR"], "expires_days": 30}
    made = api.send("POST", "/keys", asked, 201)
    assert api.last_audited().event.detail.startswith("API key script made, reader, expires ")
    found = api.archive.keys.find(made["key"])
    assert found is not None
    assert (found.role, found.scope.modalities) == (Role.READER, ("MR",))
    listed = api.client.get("/api/v1/keys")
    assert made["key"] not in listed.text
    (row,) = listed.json()["items"]
    assert (row["name"], row["state"], row["created_by"], row["modalities"]) == ("script", "working", "ann", ["MR"])
    assert "already" in api.send("POST", "/keys", asked, 400)["detail"]
    api.send("DELETE", "/keys/script", status=204)
    assert api.archive.keys.find(made["key"]) is None
    api.send("DELETE", "/keys/script", status=404)


@pytest.mark.parametrize("role", [Role.READER, Role.CONTRIBUTOR, Role.OPERATOR])
def test_only_administrators_see_users_and_keys(api: RestAPI, role: Any) -> None:
    api.act_as(role)
    for path in ("/users", "/keys"):
        api.send("GET", path, status=403)
