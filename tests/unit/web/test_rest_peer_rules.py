"""A refused peer is let in by an access rule that is shown first."""

import os
from pathlib import Path

import pytest
from restapi import LIMITED, RestAPI

from pacs_server.audit.events import EventType
from pacs_server.config.load import load
from pacs_server.dicom.caller import Role

FILE = """# Ours.
access_control:
  peers:
    - ae_title: WS1   # the workstation
      addresses: [10.0.0.1]
"""
CT9 = {"calling_ae": "CT9", "address": "10.0.0.9", "allow": ["echo", "store"]}


@pytest.fixture
def file(api: RestAPI, tmp_path: Path) -> Path:
    path = tmp_path / "pacs.yaml"
    path.write_text(FILE)

    def reload() -> bool:
        read = load(path, environ={}, overrides={})
        api.config = api.config.model_copy(update={"access_control": read.access_control, "source": path})
        return True

    reload()
    api.reload = reload
    return path


def suggested(api: RestAPI, **others: str) -> dict[str, object]:
    query = "&".join(
        f"{name}={value}" for name, value in {"calling_ae": "CT9", "address": "10.0.0.9", **others}.items()
    )
    return api.get(f"/peers/rule?{query}&allow=echo&allow=store")


def test_the_rule_is_shown_written_and_in_force(api: RestAPI, file: Path) -> None:
    shown = suggested(api)
    assert shown["lines"][:2] == ["access_control:", "  peers:"]
    assert shown["lines"][2].startswith("    # Allowed by ann on 20")
    assert shown["lines"][3:] == [
        '    - ae_title: "CT9"',
        '      addresses: ["10.0.0.9"]',
        "      allow: [echo, store]",
    ]
    assert (shown["problem"], shown["is_let_in"], file.read_text()) == ("", False, FILE)
    written = api.send("POST", "/peers/rule", CT9, 201)
    assert (written["is_let_in"], written["lines"]) == (True, shown["lines"])
    assert file.read_text() == FILE + "\n".join(shown["lines"][2:]) + "\n"
    event = api.last_audited().event
    assert event.event_type is EventType.USE_OF_RESTRICTED_FUNCTION
    assert event.detail == f"access rule added to {file}: CT9 from 10.0.0.9 may echo, store"
    assert "is let in from 10.0.0.9 already" in api.send("POST", "/peers/rule", CT9, 409)["detail"]
    # The rules of others still hold.
    assert suggested(api, calling_ae="WS1")["is_let_in"] is False


def test_where_the_server_may_not_write_the_lines_are_for_people(api: RestAPI, file: Path) -> None:
    api.config = api.config.model_copy(update={"source": None})
    assert suggested(api)["problem"] == "the server was started without a configuration file"
    api.send("POST", "/peers/rule", CT9, 409)
    api.reload()
    file.write_text("access_control: {peers: [{ae_title: WS1}]}\n")
    assert "in braces" in suggested(api)["problem"]
    assert "in braces" in api.send("POST", "/peers/rule", CT9, 409)["detail"]
    assert file.read_text() == "access_control: {peers: [{ae_title: WS1}]}\n"
    if os.geteuid() != 0:
        file.write_text(FILE)
        file.chmod(0o400)
        assert "may not be written" in suggested(api)["problem"]


@pytest.mark.parametrize(("name", "value"), [("calling_ae", "a%0Ab"), ("calling_ae", "x" * 17), ("address", "here")])
def test_what_no_rule_can_name_is_refused(api: RestAPI, file: Path, name: str, value: str) -> None:
    query = {"calling_ae": "CT9", "address": "10.0.0.9", name: value}
    text = "&".join(f"{key}={each}" for key, each in query.items())
    assert "no rule can name" in api.send("GET", f"/peers/rule?{text}&allow=echo", status=400)["detail"]


def test_a_star_in_a_title_opens_nothing(api: RestAPI, file: Path) -> None:
    assert '    - ae_title: "CT?"' in suggested(api, calling_ae="CT*")["lines"]


def test_only_administrators_of_the_whole_archive_let_peers_in(api: RestAPI, file: Path) -> None:
    api.act_as(Role.OPERATOR)
    api.send("POST", "/peers/rule", CT9, 403)
    api.act_as(Role.ADMINISTRATOR, LIMITED)
    api.send("POST", "/peers/rule", CT9, 403)
    assert file.read_text() == FILE
