"""Every operation: it is in the OpenAPI document as its route does it, and only its role may use it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from datasets import make_ct
from openapi_spec_validator import OpenAPIV31SpecValidator
from restapi import LIMITED, RestAPI
from starlette.routing import Route
from worklists import numbered

from pacs_server.audit.events import EventType
from pacs_server.config import RemoteAEConfig, WebConfig, WebShareLinksConfig
from pacs_server.config.sections.polling import PollingConfig
from pacs_server.dicom.caller import Role
from pacs_server.dicom.scope import Scope
from pacs_server.index.mpps import ProcedureStepIndex
from pacs_server.index.task_values import NewTask
from pacs_server.web.api.binding import MAX_BODY
from pacs_server.web.api.operation import PREFIX
from pacs_server.web.api.schema import public_path

_PAGES = {PREFIX, f"{PREFIX}/", f"{PREFIX}/openapi.json", f"{PREFIX}/reference.css"}


@dataclass
class Stage:
    """An archive in which every operation has something to do."""

    api: RestAPI

    def __post_init__(self) -> None:
        archive = self.api.archive
        remotes = tuple(RemoteAEConfig(ae_title=name, host="127.0.0.1", port=104) for name in ("WS1", "WS2"))
        polling = (PollingConfig(remote="WS1", every=60.0),)
        (self.api.directory / "out").mkdir()
        web = WebConfig(share_links=WebShareLinksConfig(enabled=True), export_directory=self.api.directory / "out")
        self.api.config = self.api.config.model_copy(update={"remote_aes": remotes, "web": web, "polling": polling})
        ds, *_ = self.api.store(
            [make_ct(PatientName="A^B"), make_ct(PatientName="C^D"), make_ct(PatientName="C^D", PatientID="P9")]
        )
        self.study, self.series, self.instance = ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID
        self.patient = self.api.get("/patients")["items"][-1]["reference"]
        other = self.api.get("/patients")["items"][1]["reference"]
        archive.worklist.put([numbered(1)])
        row = archive.worklist.get("1")
        assert row is not None
        self.item = {"data_set": dict(row.item.data_set)}
        step = {"00400252": {"vr": "CS", "Value": ["IN PROGRESS"]}}
        ProcedureStepIndex(archive.database).create("1.2.3", step, "CT1", discontinued_returns=False)
        self.task = archive.tasks.add(NewTask("send", "a test"))
        self.merge = {"source": other, "target": self.patient, "reason": "why"}

    def conflict(self) -> str:
        """The digest of a new conflict."""
        number = len(self.api.get("/conflicts")["about"])
        self.api.store([make_ct(PatientName=name, PatientID=f"C{number}") for name in ("A", "B")])
        return str(self.api.get("/conflicts")["about"][-1]["digest"])

    def accepted(self) -> str:
        """The digest of a conflict that was accepted."""
        digest = self.conflict()
        self.api.send("POST", "/conflicts/accept", {"digest": digest, "reason": "twins"}, 204)
        return digest

    def deletion(self) -> str:
        """The id of a deletion."""
        (ds,) = self.api.study()
        body = {"level": "instance", "uid": ds.SOPInstanceUID, "reason": "why"}
        return str(self.api.send("POST", "/trash", body, 201)["id"])

    def link(self) -> str:
        """The id of a link to the study."""
        return str(self.api.send("POST", f"/studies/{self.study}/links", {}, 201)["id"])

    def note(self) -> str:
        """The id of a note."""
        return str(self.api.send("POST", f"/studies/{self.study}/notes", {"text": "a note"}, 201)["id"])


Sample = Callable[[Stage], tuple[str, object]]

SAMPLES: dict[str, Sample] = {
    "list_patients": lambda _: ("/patients", None),
    "list_studies": lambda _: ("/studies", None),
    "search_studies": lambda _: ("/study-list?text=ct&sort=name", None),
    "study_choices": lambda _: ("/study-list/choices", None),
    "list_series": lambda _: ("/series", None),
    "list_instances": lambda _: ("/instances", None),
    "show_patient": lambda stage: (f"/patients/{stage.patient}", None),
    "show_study": lambda stage: (f"/studies/{stage.study}", None),
    "show_series": lambda stage: (f"/series/{stage.series}", None),
    "show_private": lambda stage: (f"/instances/{stage.instance}/private", None),
    "show_instance": lambda stage: (f"/instances/{stage.instance}", None),
    "show_file": lambda stage: (f"/instances/{stage.instance}/file", None),
    "list_worklist_items": lambda _: ("/worklist", None),
    "add_worklist_items": lambda stage: ("/worklist", stage.item),
    "show_worklist_item": lambda _: ("/worklist/1", None),
    "replace_worklist_item": lambda stage: ("/worklist/1", stage.item),
    "cancel_worklist_item": lambda _: ("/worklist/1/cancel", None),
    "worklist_board": lambda _: ("/worklist-board?date=20260101", None),
    "unmatched_studies": lambda _: ("/unmatched-studies?date=20240229", None),
    "match_study": lambda stage: ("/worklist/1/match", {"study": stage.study}),
    "list_steps": lambda _: ("/steps", None),
    "show_step": lambda _: ("/steps/1.2.3", None),
    "list_tasks": lambda _: ("/tasks", None),
    "count_tasks": lambda _: ("/tasks/counts", None),
    "show_task": lambda stage: (f"/tasks/{stage.task}", None),
    "retry_task": lambda stage: (f"/tasks/{stage.task}/retry", None),
    "cancel_task": lambda stage: (f"/tasks/{stage.task}/cancel", None),
    "list_deliveries": lambda _: ("/deliveries", None),
    "send": lambda stage: ("/deliveries", {"remotes": ["WS1"], "study": stage.study}),
    "list_destinations": lambda _: ("/destinations", None),
    "group_deliveries": lambda _: ("/deliveries/groups?remote=WS1", None),
    "retry_deliveries": lambda _: ("/deliveries/retry", {"remote": "WS1"}),
    "cancel_deliveries": lambda _: ("/deliveries/cancel", {"remote": "WS1", "rule": ""}),
    "outgoing": lambda _: ("/outgoing", None),
    "pause_remote": lambda _: ("/remotes/WS1/pause", None),
    "resume_remote": lambda _: ("/remotes/WS1/resume", None),
    "retarget": lambda _: ("/remotes/WS1/retarget", {"to": "WS2"}),
    "list_remotes": lambda _: ("/remotes", None),
    "fetch_from_remote": lambda _: ("/remotes/WS1/fetch", {"study": "1.2.3"}),
    "list_polling": lambda _: ("/polling", None),
    "poll_now": lambda _: ("/polling/WS1/now", None),
    "list_priors": lambda _: ("/worklist/1/priors", None),
    "list_remote_studies": lambda _: ("/remote-studies?state=found", None),
    "export_studies": lambda stage: ("/exports", {"studies": [stage.study], "folder": "a"}),
    "find_marked": lambda _: ("/marks?label=night", None),
    "show_marks": lambda stage: (f"/studies/{stage.study}/marks", None),
    "mark": lambda stage: (f"/studies/{stage.study}/marks", {"add_labels": ["night"], "reading": "read"}),
    "list_notes": lambda stage: (f"/studies/{stage.study}/notes", None),
    "add_note": lambda stage: (f"/studies/{stage.study}/notes", {"text": "second look"}),
    "remove_note": lambda stage: (f"/studies/{stage.study}/notes/{stage.note()}", None),
    "show_history": lambda stage: (f"/studies/{stage.study}/history", None),
    "preview_deidentification": lambda stage: (f"/studies/{stage.study}/deidentification", None),
    "list_share_links": lambda stage: (f"/studies/{stage.study}/links", None),
    "make_share_link": lambda stage: (f"/studies/{stage.study}/links", {"hours": 2, "purpose": "Dr. Roe"}),
    "revoke_share_link": lambda stage: (f"/studies/{stage.study}/links/{stage.link()}", None),
    "list_rules": lambda _: ("/routing/rules", None),
    "test_rules": lambda stage: (f"/routing/test/{stage.study}", None),
    "list_open_associations": lambda _: ("/associations", None),
    "list_recent_associations": lambda _: ("/associations/recent", None),
    "show_connection": lambda _: ("/connection", None),
    "draft_remote": lambda _: ("/connection/remote?ae_title=WS9&host=ws9", None),
    "list_samples": lambda _: ("/samples", None),
    "remove_samples": lambda _: ("/samples", None),
    "suggest_peer_rule": lambda _: ("/peers/rule?calling_ae=CT9&address=10.0.0.9&allow=echo", None),
    "list_peers": lambda _: ("/peers", None),
    "list_conflicts": lambda _: ("/conflicts", None),
    "accept_conflict": lambda stage: ("/conflicts/accept", {"digest": stage.conflict(), "reason": "twins"}),
    "reopen_conflict": lambda stage: ("/conflicts/reopen", {"digest": stage.accepted()}),
    "list_patients_of": lambda _: ("/conflicts/patients?patient=P1", None),
    "list_studies_of": lambda stage: (f"/conflicts/studies?patient={stage.patient}", None),
    "merge_patients": lambda stage: ("/conflicts/merge", stage.merge),
    "reassign_study": lambda stage: (
        "/conflicts/reassign", {"study": stage.study, "target": "P9", "reason": "why"}
    ),
    "list_trash": lambda _: ("/trash", None),
    "delete": lambda stage: ("/trash", {"level": "study", "uid": stage.study, "reason": "why"}),
    "show_deletion": lambda stage: (f"/trash/{stage.deletion()}", None),
    "restore": lambda stage: (f"/trash/{stage.deletion()}/restore", None),
    "purge_deletion": lambda stage: (f"/trash/{stage.deletion()}", None),
    "purge": lambda _: ("/trash/purge", {"older_than_days": 0}),
    "search_audit_trail": lambda _: ("/audit", None),
    "show_audit_verification": lambda _: ("/audit/verification", None),
    "verify_audit_trail": lambda _: ("/audit/verification", None),
    "list_users": lambda _: ("/users", None),
    "add_user": lambda _: ("/users", {"name": "bob", "password": "12345678", "role": "reader"}),
    "set_rights": lambda _: ("/users/bob/rights", {"role": "operator"}),
    "set_password": lambda _: ("/users/bob/password", {"password": "87654321"}),
    "remove_user": lambda _: ("/users/bob", None),
    "list_keys": lambda _: ("/keys", None),
    "create_key": lambda _: ("/keys", {"name": "script", "role": "reader"}),
    "revoke_key": lambda _: ("/keys/script", None),
    "show_about": lambda _: ("/about", None),
    "show_conformance": lambda _: ("/conformance", None),
    "show_status": lambda _: ("/status", None),
    "show_server": lambda _: ("/server", None),
    "show_storage": lambda _: ("/storage", None),
    "show_statistics": lambda _: ("/storage/statistics", None),
    "list_faults": lambda _: ("/storage/faults", None),
    "show_configuration": lambda _: ("/configuration", None),
}  # fmt: skip
# Events do not end, and have a test file of their own, as tags have a test. What asks remotes is tested with remotes.
_OTHERS = {
    *(
        "listen_to_events",
        "export_audit_trail",
        "show_tags",
        "download_studies",
        "download_deidentified",
        "echo_remote",
        "search_remote",
        "ask_worklist_of_remote",
    ),
    # It writes into the configuration file.
    "add_peer_rule",
    *("listen_to_events", "show_tags", "echo_remote", "search_remote", "ask_worklist_of_remote"),
    # They write into the configuration file, and draw for seconds.
    *("add_peer_rule", "add_samples"),
}


@pytest.fixture
def stage(api: RestAPI) -> Stage:
    return Stage(api)


@pytest.fixture
def any_stage(tmp_path: Path, database_url: str) -> Iterator[Stage]:
    """A stage on each kind of database."""
    api = RestAPI(tmp_path, None if database_url.startswith("sqlite") else database_url)
    yield Stage(api)
    api.close()


def test_the_document_describes_every_route_and_no_other(api: RestAPI) -> None:
    routes = {
        (public_path(route.path.removeprefix(PREFIX)), method.lower())
        for route in api.door.routes()
        if route.path not in _PAGES
        for method in (route.methods or set()) - {"HEAD"}
    }
    paths = api.get("/openapi.json")["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == routes
    assert all(isinstance(route, Route) for route in api.door.routes())


@pytest.mark.slow
def test_the_document_is_valid_and_whole(api: RestAPI) -> None:
    document = api.get("/openapi.json")
    assert not list(OpenAPIV31SpecValidator(document).iter_errors())
    assert document["servers"] == [{"url": "http://127.0.0.1:8080/api/v1"}]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"')))
    assert references == set(document["components"]["schemas"])
    for path, method, operation in _operations(document):
        assert operation["summary"].endswith("."), (path, method)
        assert operation["x-role"] in {role.name.lower() for role in Role}
        assert {"400", "401", "403", "503"} <= set(operation["responses"])
        assert all(each.get("description") for each in operation["parameters"]), (path, method)
        assert {each["name"] for each in operation["parameters"] if each["in"] == "path"} == set(
            re.findall(r"\{(\w+)\}", path)
        )


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, each) for path, methods in document["paths"].items() for method, each in methods.items()]


def test_there_is_a_sample_of_every_operation(api: RestAPI) -> None:
    assert set(SAMPLES) | _OTHERS == set(api.operations)


@pytest.mark.slow
def test_every_operation_answers_as_the_document_says(any_stage: Stage) -> None:
    stage = any_stage
    for name, sample in SAMPLES.items():
        operation = stage.api.operations[name]
        path, body = sample(stage)
        status = operation.status if operation.answer is not None else 204
        answer = stage.api.send(operation.method, path, body, status)
        if operation.answer is not None:
            # What a client gets is what the model says.
            operation.answer.model_validate(answer)


@pytest.mark.slow
def test_nobody_of_a_lower_role_may_use_an_operation(stage: Stage) -> None:
    for name, operation in stage.api.operations.items():
        if operation.role is Role.READER:
            continue
        stage.api.act_as(Role(operation.role - 1))
        path = re.sub(r"\{\w+\}", "1", operation.path)
        detail = stage.api.send(operation.method, path, {}, 403)["detail"]
        assert f"needs the role {operation.role.name.lower()}" in detail, name
        # Once a minute for each operation and address.
        event = stage.api.last_audited().event
        assert event.event_type is EventType.USE_OF_RESTRICTED_FUNCTION
        assert event.detail.startswith(f"{name} refused: "), event.detail


@pytest.mark.slow
@pytest.mark.parametrize("by_study", [False, True])
def test_a_limited_caller_learns_nothing_foreign(any_stage: Stage, by_study: bool) -> None:
    stage, api = any_stage, any_stage.api
    stage.deletion()
    (own,) = api.study(PatientID="MINE", PatientName="My^Own", Modality="MR")
    foreign = {str(stage.study), str(stage.series), str(stage.instance), stage.patient, "A^B", "C^D", "P9"}
    samples = SAMPLES | {"show_tags": lambda stage: (f"/instances/{stage.instance}/tags", None)}
    asked = {name: sample(stage) for name, sample in samples.items()}
    # Whoever came by a link sees one study, and nothing of what those with an account say of studies.
    api.act_as(Role.CONTRIBUTOR, Scope(studies=(own.StudyInstanceUID,)) if by_study else LIMITED)
    seen = set()
    for name, (path, body) in asked.items():
        operation = api.operations[name]
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        answer = api.client.request(operation.method, PREFIX + path, content=content, headers=headers)
        told = answer.text.replace(path, "")
        # The UID of an object of theirs may be the beginning of one of their own.
        assert not [text for text in foreign if re.search(rf"{re.escape(text)}(?![.0-9])", told)], (name, told)
        assert answer.status_code in (200, 403, 404), name
        if answer.status_code == 200:
            seen.add(name)
    listed = {"list_patients", "list_studies", "list_series", "list_instances", "list_worklist_items", "search_studies"}
    others = {"show_status", "list_deliveries", "list_destinations", "find_marked", "study_choices"}
    others |= {"show_about", "show_conformance", "worklist_board", "unmatched_studies", "show_connection"}
    assert seen == (listed | others) - ({"find_marked"} if by_study else set())
    assert api.get("/worklist")["items"] == []
    (row,) = api.get("/studies")["items"]
    assert (row["PatientID"], row["NumberOfStudyRelatedInstances"]) == ("MINE", 1)
    assert api.get(f"/instances/{own.SOPInstanceUID}/tags")["00080060"]["Value"] == ["MR"]
    assert api.get("/patients?PatientID=P*")["items"] == []


def test_bodies_are_bounded_and_of_json(api: RestAPI) -> None:
    text = {"Content-Type": "text/plain"}
    assert "Content-Type" in api.send("POST", "/worklist", {}, 415, headers=text)["detail"]
    assert "application/json" in api.send("POST", "/worklist", None, 415)["detail"]
    whole = {"fields": {"PatientName": "x" * MAX_BODY}}
    assert str(MAX_BODY) in api.send("POST", "/worklist", whole, 413)["detail"]
    for content in (b"{", b"[]", b"\xff", b"[" * 100_000, b'{"fields": ' * 10_000):
        answer = api.client.post(f"{PREFIX}/worklist", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_paths_and_methods_that_are_not_there(api: RestAPI) -> None:
    assert "nothing at" in api.send("GET", "/nothing", status=404)["detail"]
    answer = api.client.delete(f"{PREFIX}/studies")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert set(api.client.delete(f"{PREFIX}/worklist").headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert api.client.head(f"{PREFIX}/studies").status_code == 200


def test_a_page_of_another_origin_changes_nothing(api: RestAPI) -> None:
    api.send("POST", "/trash/purge", {"older_than_days": 0}, 403, headers={"Origin": "https://evil.example"})
    api.send("POST", "/trash/purge", {"older_than_days": 0}, 403, headers={"Sec-Fetch-Site": "cross-site"})


@pytest.mark.slow
def test_the_page_shows_every_operation_and_needs_no_script(api: RestAPI) -> None:
    answer = api.client.get(f"{PREFIX}/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; style-src 'self'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "style=" not in answer.text
    for operation in api.operations.values():
        assert f'<details id="{operation.name}">' in answer.text
    assert "items[].StudyInstanceUID" in answer.text
    assert api.client.get(f"{PREFIX}/reference.css").headers["content-type"].startswith("text/css")


# What has no business in a name, a UID or a reason.
_ODD = ("\0", "\ud800", "'\"\\%*", "9" * 30, "x" * 5000)


@pytest.mark.slow
def test_no_text_makes_an_operation_fail(any_stage: Stage) -> None:
    stage, api = any_stage, any_stage.api
    asked = {name: sample(stage) for name, sample in SAMPLES.items() if name not in ("purge",)}
    for name, (path, body) in asked.items():
        operation = api.operations[name]
        for odd in _ODD:
            text = quote(odd, safe="", errors="surrogatepass")
            paths = [re.sub(r"\{\w+(:path)?\}", text, operation.path)] if "{" in operation.path else []
            # Of the many keys of a list every fifth will do.
            known = [] if paths else list(operation.query.model_fields)
            fields = known if len(known) < 10 else known[::5]
            queries = [f"{path.partition('?')[0]}?{field}={text}" for field in fields]
            for target in (*paths, *queries):
                _answers(api, operation.method, target, body)
            for changed in _with(body, odd):
                _answers(api, operation.method, path, changed)


def _with(body: object, odd: str) -> Iterator[object]:
    """The body with one of its texts replaced, each in turn."""
    if isinstance(body, dict):
        for key, value in body.items():
            yield from ({**body, key: changed} for changed in _with(value, odd))
    elif isinstance(body, str):
        yield odd
    elif isinstance(body, int):
        yield from (2**70, -1, odd)


def _answers(api: RestAPI, method: str, path: str, body: object) -> None:
    content = None if body is None else json.dumps(body)
    answer = api.client.request(method, PREFIX + path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, (method, path, body, answer.text)
