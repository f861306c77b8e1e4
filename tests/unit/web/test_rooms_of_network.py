"""The rooms about peers, remotes and the send queue, and the first page: what they show to whom, and their forms."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import make_ct
from restapi import LIMITED
from rooms import Rooms
from servers import config, free_port, running, store

from pacs_server.config import RemoteAEConfig
from pacs_server.config.sections.routing import RoutingConfig
from pacs_server.dicom.caller import Caller, Door, Role
from pacs_server.services.associations import Traffic

REMOTES = tuple(RemoteAEConfig(ae_title=name, host="127.0.0.1", port=104) for name in ("WS1", "WS2"))


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    rooms.config = rooms.config.model_copy(update={"remote_aes": REMOTES})
    yield rooms
    rooms.close()


@pytest.fixture
def waiting(rooms: Rooms) -> str:
    """The UID of a study that waits for WS1."""
    uid = str(rooms.study(PatientName="Roe^<i>Jane</i>")[0].StudyInstanceUID)
    rooms.send("POST", "/deliveries", {"remotes": ["WS1"], "study": uid}, 202)
    return uid


@pytest.mark.parametrize("path", ["/network", "/remotes", "/queue", "/polling", "/rules"])
def test_rooms_of_operators_are_closed_to_others(rooms: Rooms, path: str) -> None:
    rooms.act_as(Role.CONTRIBUTOR)
    assert f'href="{path}"' not in rooms.page("/about")
    assert "needs the role operator" in rooms.page(path, 403)
    rooms.act_as(Role.OPERATOR)
    assert f'href="{path}"' in rooms.page(path)


def test_who_was_refused_and_why(rooms: Rooms) -> None:
    for _ in range(3):
        rooms.recent.refused("10.0.0.9", "calling_ae_title", tls=False, calling_ae="<b>CT9", called_ae="PACS")
    rooms.recent.refused("10.0.0.8", "called_ae_title", tls=True, calling_ae="CT8", called_ae="OTHER")
    caller = Caller(Door.DIMSE, "10.0.0.7", "CT1", "PACS")
    traffic, refusals = Traffic(1000, 20, 3.0), (2, "another object is stored")
    rooms.recent.ended(caller, "released", {"C-STORE": 12, "C-ECHO": 1}, traffic, refusals)
    page = rooms.page("/network")
    assert "&lt;b&gt;CT9" in page
    assert "<b>CT9" not in page
    assert "3 times" in page
    assert "It called OTHER; this archive is PACS_SERVER." in page
    assert "2 of these were refused, the last one because:</span> another object is stored" in page
    assert "1 echo, 12 objects sent here" in " ".join(page.split())
    assert page.count("Allow this peer") == 1
    # Once it was let in, there is nothing to allow.
    rooms.recent.ended(Caller(Door.DIMSE, "10.0.0.9", "<b>CT9", "PACS"), "released", {}, Traffic(1, 1, 1.0))
    assert "Allow this peer" not in rooms.page("/network")
    rooms.act_as(Role.OPERATOR)
    page = rooms.page("/network?q=ct8")
    assert "Allow this peer" not in page
    assert "CT9" not in page


def test_a_rule_that_the_server_cannot_write_is_for_people(rooms: Rooms) -> None:
    rooms.config = rooms.config.model_copy(
        update={"access_control": rooms.config.access_control.model_copy(update={"allowed_ae_titles": ("CT1",)})}
    )
    page = rooms.page("/network/allow?calling_ae=CT9&address=10.0.0.9&allow=echo")
    assert "- ae_title: &#34;CT9&#34;" in page
    assert "the server was started without a configuration file" in page
    assert "Write this rule" not in page
    page = rooms.submit("/network/allow", 409, calling_ae="CT9", address="10.0.0.9", allow="echo")
    assert "allow: [echo]" in page
    assert "the server was started without a configuration file" in page
    assert "is accepted from this address" in rooms.page("/network/allow?calling_ae=CT1&address=10.0.0.9")
    rooms.act_as(Role.OPERATOR)
    rooms.page("/network/allow?calling_ae=CT9&address=10.0.0.9", 403)


def test_remotes_are_paused_and_resumed(rooms: Rooms, waiting: str) -> None:
    page = rooms.page("/remotes")
    assert "1 object waits" in page
    assert "Somebody has paused this remote." in rooms.submit("/remotes/WS1/state", deed="pause")
    assert "Somebody has paused this remote." not in rooms.submit("/remotes/WS1/state", deed="resume")
    rooms.submit("/remotes/WS9/state", 404, deed="pause")


def test_what_waits_is_sent_elsewhere_or_not_at_all(rooms: Rooms, waiting: str) -> None:
    page = rooms.page("/queue?remote=WS1")
    assert "Roe, &lt;i&gt;Jane&lt;/i&gt;" in page
    assert "It has not been tried yet." in page
    assert "Nothing like that is waiting." in rooms.page("/queue?remote=WS2")
    page = rooms.submit("/queue", remote="WS1", study=waiting, rule="", deed="retarget", to="WS2", shown_remote="WS2")
    assert "Roe" in page
    assert "1 waiting" in page
    assert "1 waiting" in rooms.submit("/queue", remote="WS2", deed="retry")
    assert "Nothing is waiting. Everything was sent." in rooms.submit(
        "/queue", remote="WS2", study=waiting, deed="cancel"
    )
    rooms.submit("/queue", 400, remote="WS2", deed="burn")


def test_what_waits_for_a_remote_that_is_gone_is_still_shown(rooms: Rooms, waiting: str) -> None:
    rooms.config = rooms.config.model_copy(update={"remote_aes": REMOTES[1:]})
    assert "The settings name no such remote any more." in rooms.page("/queue")
    rooms.submit("/queue", remote="WS1", study=waiting, rule="", deed="retarget", to="WS2")
    assert "The settings name no such remote" not in rooms.page("/queue")


def test_the_first_page_says_what_each_role_can_do(rooms: Rooms) -> None:
    page = rooms.page("/welcome")
    assert "PACS_SERVER" in page
    assert "11112" in page
    assert "Other machines cannot reach the archive yet." in page
    assert "Waiting for the first echo." in page
    assert "Add the sample studies" in page
    assert "Make the lines" in page
    rooms.act_as(Role.READER, LIMITED)
    page = rooms.page("/welcome")
    assert "Operators see here what arrives." in page
    assert "Add the sample studies" not in page
    assert "Make the lines" not in page
    rooms.submit("/welcome/samples", 403, deed="add")


def test_who_has_been_refused_at_the_start_can_be_allowed_from_there(rooms: Rooms) -> None:
    rooms.recent.refused("10.0.0.9", "calling_ae_title", tls=False, calling_ae="CT9", called_ae="PACS")
    assert "/network/allow?calling_ae=CT9&amp;address=10.0.0.9" in rooms.page("/welcome")


def test_a_workstation_is_drafted(rooms: Rooms) -> None:
    page = rooms.page("/welcome?ae_title=WS7&host=ws7&port=11112&tls=on")
    assert "- ae_title: &#34;WS7&#34;\n    host: &#34;ws7&#34;\n    port: 11112\n    tls: true" in page
    assert "The server was started without a configuration file." in page
    assert "is in remote_aes already" in rooms.page("/welcome?ae_title=WS1&host=ws1&port=104")
    assert "That is not possible" in rooms.page("/welcome?ae_title=much+too+long+a+title&host=x&port=104")


def test_the_start_leads_to_the_studies_once_there_are_some(rooms: Rooms) -> None:
    assert "Connect a modality" in rooms.page("/")
    rooms.study()
    assert "Connect a modality" not in rooms.page("/")


@pytest.mark.slow
def test_a_study_is_searched_and_fetched_at_a_remote(rooms: Rooms, tmp_path: Path) -> None:
    with running(config(tmp_path / "other", ae_title="OTHER")) as other:
        ds = make_ct(PatientName="Roe^<b>Jane", StudyDate="20260102")
        assert store(other, ds) == [0]
        remote = RemoteAEConfig(ae_title="OTHER", host="127.0.0.1", port=other.address[1])
        rooms.config = rooms.config.model_copy(update={"remote_aes": (remote,)})
        rooms.page("/remotes")
        page = " ".join(rooms.submit("/remotes/OTHER/echo").split())
        assert "It answers, after" in page
        assert "Its software says: PACS_SERVER" in page
        assert "Last echo answered" in rooms.page("/remotes")
        page = rooms.page("/remotes/OTHER?search=1&PatientName=roe&StudyDate=2026-01-02")
        assert "Roe, &lt;b&gt;Jane" in page
        assert "The remote found nothing." in rooms.page("/remotes/OTHER?search=1&PatientName=doe")
        page = rooms.submit("/remotes/OTHER/fetch", study=str(ds.StudyInstanceUID), PatientName="roe")
        assert "Fetched from this remote" in page
        assert 'value="roe"' in page
    (task,) = rooms.get("/tasks?kind=fetch")["items"]
    assert (task["target"], task["payload"]) == ("OTHER", {"study": ds.StudyInstanceUID})


def test_a_remote_that_does_not_answer_says_why(rooms: Rooms) -> None:
    remote = RemoteAEConfig(ae_title="OFF", host="127.0.0.1", port=free_port())
    rooms.config = rooms.config.model_copy(update={"remote_aes": (remote,)})
    rooms.page("/remotes")
    assert "Nothing listens at the address and port" in rooms.submit("/remotes/OFF/echo")
    assert "Last echo without an answer" in rooms.page("/remotes")
    assert "Search at this remote" in rooms.page("/remotes/OFF")
    assert "Nothing listens at the address and port" in rooms.page("/remotes/OFF?search=1")
    rooms.page("/remotes/NOWHERE", 404)
    rooms.submit("/remotes/OFF/fetch", 400, study="x")


def test_rules_and_what_they_would_do(rooms: Rooms) -> None:
    assert "There are no rules." in rooms.page("/rules")
    rooms.study(AccessionNumber="A7", Modality="MR")
    rule = {"name": "night", "when": "arrival", "match": {"Modality": ["MR"]}, "forward": ["WS1"]}
    routing = RoutingConfig.model_validate({"rules": [rule]}, strict=False)
    rooms.config = rooms.config.model_copy(update={"routing": routing})
    page = rooms.page("/rules?study=A7")
    assert "applies to 1" in page
    assert "send to" in page
    assert "There is no such study." in rooms.page("/rules?study=1.2.3")
