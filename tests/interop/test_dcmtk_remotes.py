"""DCMTK's dcmqrscp as a remote of the command line and of the REST API."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import dcmtk
import pytest
from commandline import call_command
from datasets import make_ct, make_study
from outgoing import outgoing, pool, remote
from restapi import LIMITED, RestAPI
from servers import config, free_port, running

from pacs_server.audit.events import EventID
from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.caller import Role
from pacs_server.scu.dimse_sender import DIMSESender

pytestmark = pytest.mark.interop

STUDY = make_study(2, 2, PatientID="ASK1", PatientName="Müller^Jörg", AccessionNumber="ACC-1")
UID, SERIES = str(STUDY[0].StudyInstanceUID), str(STUDY[0].SeriesInstanceUID)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteAEConfig]:
    """A dcmqrscp with a study, which the settings name `old`."""
    with dcmtk.DcmQRSCP(tmp_path_factory.mktemp("qr") / "archive") as scp, pool() as ours:
        with DIMSESender(ours, remote(scp.port, scp.ae_title)) as sender:
            assert {sender.send(outgoing(each)).status for each in STUDY} == {0}
        yield RemoteAEConfig(name="old", ae_title=scp.ae_title, host="127.0.0.1", port=scp.port)


@pytest.fixture
def command(tmp_path: Path, old: RemoteAEConfig) -> Callable[..., Any]:
    """Runs `pacs-server remote`, with settings that know `old` and `gone`, where nobody listens."""
    remotes = [
        {"name": "old", "ae_title": old.ae_title, "host": old.host, "port": old.port},
        {"name": "gone", "ae_title": "GONE", "host": "127.0.0.1", "port": free_port()},
        {"kind": "dicomweb", "name": "cloud", "url": "https://127.0.0.1:1/dicom-web"},
    ]
    (tmp_path / "pacs_server.yaml").write_text(json.dumps({"remote_aes": remotes}))

    def run(*arguments: object) -> Any:
        return call_command("--config", "pacs_server.yaml", "remote", *arguments, cwd=tmp_path)

    return run


def test_remotes_are_listed(command: Callable[..., Any]) -> None:
    rows = [line.split("\t") for line in command("list").stdout.splitlines()]
    assert [row[0] for row in rows] == ["NAME", "old", "gone", "cloud"]
    assert rows[3][1:5] == ["dicomweb", "-", "https://127.0.0.1:1/dicom-web", "yes"]
    assert [each["name"] for each in json.loads(command("list", "--json").stdout)] == ["old", "gone", "cloud"]


def test_an_echo_says_who_is_there(command: Callable[..., Any]) -> None:
    done = command("echo", "old")
    assert (done.returncode, done.stdout.startswith("old: is there, answered in ")) == (0, True)
    assert " ms; DCMTK, OFFIS_DCMTK_" in done.stdout
    done = command("echo", "--all")
    assert done.returncode == 1
    old, gone, cloud = done.stdout.splitlines()
    assert old.startswith("old: is there")
    assert gone.startswith("gone: cannot connect to 127.0.0.1 port ")
    assert cloud.startswith("cloud: cannot connect")
    done = command("echo", "nobody")
    assert (done.returncode, done.stderr) == (
        1, "pacs-server: there is no remote nobody; remote_aes has old, gone, cloud\n",
    )  # fmt: skip
    assert command("echo").returncode == 2


def test_a_search_gives_a_table_or_json(command: Callable[..., Any]) -> None:
    table = command("find", "old", "--patient-id", "ASK*", "-k", "ReferringPhysicianName")
    titles, *rows = (line.split("\t") for line in table.stdout.splitlines())
    assert titles[-1] == "ReferringPhysicianName"
    assert [(row[titles.index("PATIENT NAME")], row[titles.index("STUDY UID")], row[-1]) for row in rows] == [
        ("Müller^Jörg", UID, "Refer^Ring")
    ]
    found = json.loads(command("find", "old", "--level", "series", "--study", UID, "--json").stdout)
    assert sorted(each["SeriesInstanceUID"] for each in found) == sorted(
        {str(each.SeriesInstanceUID) for each in STUDY}
    )
    images = command("find", "old", "--level", "image", "--study", UID, "--series", SERIES, "--limit", 1, "--json")
    assert len(json.loads(images.stdout)) == 1
    assert json.loads(command("find", "old", "--accession", "none", "--json").stdout) == []
    assert "'NoKey' is no attribute" in command("find", "old", "-k", "NoKey=1").stderr
    done = command("worklist", "old")
    assert (done.returncode, done.stderr) == (1, "pacs-server: old does not offer this service\n")
    assert "cloud is a DICOMweb remote, which has no worklist" in command("worklist", "cloud").stderr


def test_a_study_is_fetched_by_its_accession_number(tmp_path: Path, old: RemoteAEConfig) -> None:
    settings = config(tmp_path, remote_aes=[old])
    with running(settings) as pacs:
        text = {
            "storage": {"directory": str(settings.storage.directory)},
            "database": {"path": str(settings.database.path)},
            "remote_aes": [{"name": "old", "ae_title": old.ae_title, "host": old.host, "port": old.port}],
        }
        (tmp_path / "pacs_server.yaml").write_text(json.dumps(text))
        run = ("--config", "pacs_server.yaml", "remote", "fetch", "old")
        # The server of this test has no way to hear of a task of another process but to look.
        with ThreadPoolExecutor(1) as threads:
            fetching = threads.submit(call_command, *run, "ACC-1", "--wait", cwd=tmp_path)
            while not wait([fetching], timeout=0.05).done:
                pacs.archive.tasks.changed.set()
        done = fetching.result()
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [f"task 1: study {UID} from old", "task 1: 4 instances are here"]
        done = call_command(*run, "ACC-2", cwd=tmp_path)
        assert done.stderr == "pacs-server: old has no study of the accession number ACC-2\n"


@pytest.fixture
def rest(tmp_path: Path, old: RemoteAEConfig) -> Iterator[RestAPI]:
    gone = RemoteAEConfig(name="gone", ae_title="GONE", host="127.0.0.1", port=free_port())
    with closing(RestAPI(tmp_path)) as api:
        api.config = api.config.model_copy(update={"remote_aes": (old, gone)})
        yield api


def test_whose_software_it_is_was_seen_when_it_was_called(rest: RestAPI, tmp_path: Path) -> None:
    rest.send("POST", "/remotes/old/echo")
    old, gone = rest.get("/remotes")["items"]
    assert (old["vendor"], gone["vendor"], gone["implementation_class_uid"]) == ("DCMTK", "", "")
    assert old["implementation_class_uid"].startswith("1.2.276.0.7230010.3.0.3.")
    assert old["implementation_version_name"].startswith("OFFIS_DCMTK_")
    remotes = [
        each.model_dump(mode="json", include={"name", "ae_title", "host", "port"}) for each in rest.config.remote_aes
    ]
    settings = {
        "storage": {"directory": str(tmp_path / "archive")},
        "database": {"path": str(tmp_path / "pacs.db")},
        "audit": {"directory": str(tmp_path / "audit")},
        "remote_aes": [remotes[0] | {"vendor": "Mine"}, remotes[1]],
    }
    for vendor in ("DCMTK", "Mine"):
        settings["remote_aes"][0]["vendor"] = "auto" if vendor == "DCMTK" else vendor
        (tmp_path / "other.yaml").write_text(json.dumps(settings))
        done = call_command("--config", "other.yaml", "remote", "list", cwd=tmp_path)
        _, row, other = (line.split("\t") for line in done.stdout.splitlines())
        assert row[-2:] == [vendor, old["implementation_version_name"]]
        assert other[-2:] == ["-", "-"]


def test_rest(rest: RestAPI) -> None:
    assert [(each["name"], each["vendor"]) for each in rest.get("/remotes")["items"]] == [("old", ""), ("gone", "")]
    echoed = rest.send("POST", "/remotes/old/echo")
    assert echoed["round_trip"] > 0
    assert echoed["vendor"] == "DCMTK"
    rest.send("POST", "/remotes/gone/echo", status=504)
    rest.send("POST", "/remotes/nobody/echo", status=404)
    body = {"keys": {"PatientID": "ASK1"}, "returns": ["StudyInstanceUID"]}
    found = rest.send("POST", "/remotes/old/search", body)
    assert found["complete"] is True
    assert [each["0020000D"]["Value"] for each in found["items"]] == [[UID]]
    event = rest.last_audited().event
    assert (event.event_id, event.detail, event.query) == (EventID.QUERY, "1 match", {"PatientID": "ASK1"})
    series = {"level": "series", "keys": {"StudyInstanceUID": UID}, "limit": 1}
    assert rest.send("POST", "/remotes/old/search", series)["complete"] is False
    rest.send("POST", "/remotes/old/search", {"keys": {"NoKey": "1"}}, status=400)
    rest.send("POST", "/remotes/old/worklist", {}, status=502)
    task = rest.send("POST", "/remotes/old/fetch", {"study": UID}, status=202)["task"]
    assert rest.get(f"/tasks/{task}")["target"] == "old"
    rest.send("POST", "/remotes/old/fetch", {"study": "1.x"}, status=400)
    rest.send("POST", "/remotes/nobody/fetch", {"study": UID}, status=404)


def test_how_much_of_a_study_is_here_is_told_to_who_asks(rest: RestAPI, tmp_path: Path) -> None:
    body = {"keys": {"PatientID": "ASK1"}}
    assert rest.send("POST", "/remotes/old/search", body)["compared"] is None
    told = {"study_instance_uid": UID, "here": 0, "there": 4}
    assert rest.send("POST", "/remotes/old/search", body | {"compare": True})["compared"] == [told]
    assert rest.last_audited().event.detail == "4 instances"
    # What only is here does not count.
    rest.store([*STUDY[:3], make_ct(UID, SERIES, PatientID="ASK1")])
    assert rest.send("POST", "/remotes/old/search", body | {"compare": True})["compared"] == [told | {"here": 3}]
    nothing = {"keys": {"PatientID": "nobody"}, "compare": True}
    assert rest.send("POST", "/remotes/old/search", nothing)["compared"] == []
    rest.send("POST", "/remotes/old/search", {"level": "series", "compare": True}, status=400)
    old, _ = rest.get("/remotes")["items"]
    host, _, port = old["address"].partition(":")
    settings = {
        "storage": {"directory": str(tmp_path / "archive")},
        "database": {"path": str(tmp_path / "pacs.db")},
        "audit": {"directory": str(tmp_path / "audit")},
        "remote_aes": [{"name": "old", "ae_title": old["ae_title"], "host": host, "port": int(port)}],
    }
    (tmp_path / "compare.yaml").write_text(json.dumps(settings))

    def find(*options: str) -> Any:
        return call_command("--config", "compare.yaml", "remote", "find", "old", *options, cwd=tmp_path)

    titles, row = (line.split("\t") for line in find("--compare").stdout.splitlines())
    assert (titles[-1], row[-1]) == ("HERE", "3 of 4")
    assert "HERE" not in find().stdout
    (found,) = json.loads(find("--compare", "--json").stdout)
    assert (found["here"], found["there"]) == (3, 4)
    done = find("--compare", "--level", "series", "--study", UID)
    assert (done.returncode, done.stderr) == (2, "pacs-server: --compare is for studies\n")


def test_rest_is_for_operators_without_limits(rest: RestAPI) -> None:
    for role, scope in ((Role.CONTRIBUTOR, None), (Role.OPERATOR, LIMITED)):
        rest.act_as(role, scope)
        for path in ("echo", "search", "worklist", "fetch"):
            rest.send("POST", f"/remotes/old/{path}", {"study": UID} if path == "fetch" else {}, status=403)
