"""What the commands of a page need to run: an archive with what the page speaks of, a server, remotes."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import archives
import pytest
import schema
import yaml
from audits import an_event, clock
from code_blocks import ROOT, alike, blocks
from datasets import make_ct, make_study, write_part10
from outboxes import OutboxNode
from pydicom.dataset import Dataset
from servers import RawPeer, eventually, free_port, running, store, store_request
from shells import Shell

from pacs_server.app.assembly import open_archive
from pacs_server.app.server import PacsServer
from pacs_server.audit.trail import open_trail
from pacs_server.config import Config
from pacs_server.config.load import load
from pacs_server.config.rights import Rights
from pacs_server.dicom.commitment import CommitmentRequest, Reference
from pacs_server.index.commitment import CommitmentIndex, Schedule
from pacs_server.index.database import Database
from pacs_server.index.peers import PeerIndex, PeerSeen
from pacs_server.index.task_values import Lease
from pacs_server.net.message import encode_message
from pacs_server.testing import temporary_pacs
from pacs_server.testing.waiting import WaitFailed

# The ports on the pages: DICOM, monitoring, HTTP.
PORTS = {"server": ("port", "11112"), "monitoring": ("metrics_port", "9090"), "web": ("port", "8080")}
# An A-ABORT of the peer.
ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])
STUDY = "1.2.826.0.1.3680043.8.498.1"


class Stage:
    """A directory, a configuration in it and a shell, for the commands of one page."""

    def __init__(self, directory: Path, page: str) -> None:
        self.shell = Shell(directory / "desk")
        self.desk = self.shell.directory
        self.names = self.shell.names
        self.page = page
        # The blocks of text that were compared with what was printed.
        self.shown: set[str] = set()
        # Commands that this stage runs in a way of its own, and returns what they print.
        self.own: dict[str, Callable[[], str]] = {}
        self.file = self.desk / "pacs_server.yaml"
        self.names["/etc/pacs-server/pacs_server.yaml"] = str(self.file)
        self.ports = {section: free_port() for section in PORTS}
        for section, (_, number) in PORTS.items():
            self.names[number] = str(self.ports[section])

    def configured(self, **settings: Any) -> Config:
        """Write the configuration; `settings` are sections of it, over ones that suit tests."""
        sections: dict[str, Any] = {name: {key: self.ports[name]} for name, (key, _) in PORTS.items()}
        sections["storage"] = {"directory": "../archive", "min_free_space": 0, "fsync": False}
        sections["database"], sections["audit"] = {"path": "../pacs.db"}, {"directory": "../audit"}
        for name, section in settings.items():
            sections[name] = section if isinstance(section, list) else sections.get(name, {}) | section
        self.file.write_text(yaml.safe_dump(sections))
        return load(self.file, environ={}, overrides={})

    def archive(self, *instances: Dataset, **settings: Any) -> Config:
        """An archive with these instances, and no server."""
        config = self.configured(**settings)
        schema.prepare(config.database.path)
        archives.make_empty(config.storage.directory)
        for number, instance in enumerate(instances):
            write_part10(instance, self.desk.parent / f"sent/{number}.dcm")
        if instances:
            self.printed("pacs-server import ../sent --config pacs_server.yaml")
        return config

    def told(self) -> None:
        """The page tells in words to set the variable that names the configuration."""
        self.shell.environment["PACS_SERVER_CONFIG"] = str(self.file)

    def server(self, **settings: Any) -> AbstractContextManager[PacsServer]:
        """A server with this configuration."""
        return running(self.configured(**settings))

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        own = self.own.get(command)
        return (0, own()) if own else self.shell.run(command)

    def printed(self, command: str) -> str:
        """What a command prints; it has to succeed."""
        code, printed = self.shell.run(command)
        assert code == 0, f"{self.page}: {command}: {code}: {printed}"
        return printed

    def parsed(self, command: str) -> Any:
        return json.loads(self.printed(command))

    def texts(self) -> list[str]:
        """The blocks of text of the page, which somebody compares now."""
        found = [block.text for block in blocks(self.page) if block.language == "text"]
        self.shown |= {*found}
        return found


Setting = Callable[[Stage], AbstractContextManager[None]]
STAGES: dict[str, Setting] = {}


def _for(page: str) -> Callable[[Callable[[Stage], Iterator[None]]], None]:
    """The function sets the stage, yields while the commands of the page run, and looks at what they left."""

    def take(function: Callable[[Stage], Iterator[None]]) -> None:
        STAGES[page] = contextmanager(function)

    return take


def _study(uid: str = STUDY, count: int = 1, **attributes: Any) -> list[Dataset]:
    return make_study(1, count, **({"StudyInstanceUID": uid} | attributes))


@_for("README.md")
def _readme(stage: Stage) -> Iterator[None]:
    """`make run` in a directory where everything is installed already."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, stage.desk)
    (stage.desk / ".venv").mkdir()
    (stage.desk / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (stage.desk / ".venv/.installed-run").touch()
    ports = {f"PACS_SERVER__{name}__{key}".upper(): str(stage.ports[name]) for name, (key, _) in PORTS.items()}
    with (stage.desk / "log").open("wb") as log, ExitStack() as ends:

        def run() -> str:
            server = subprocess.Popen(
                ["make", "run"], cwd=stage.desk, env=stage.shell.environment | ports, stdout=log, stderr=log
            )
            ends.callback(server.wait, 60)
            ends.callback(server.terminate)
            assert eventually(lambda: "image.dcm" in (stage.desk / "log").read_text() or server.poll() is not None)
            # Not before: with this file `make run` would say something else.
            stage.file.touch()
            return (stage.desk / "log").read_text()

        stage.own["make run"] = run
        yield
    [line] = [block.text for block in blocks("docs/logs.md") if block.language == "text"]
    [logged] = [each for each in (stage.desk / "log").read_text().splitlines() if "=stored" in each][:1]
    assert [field.split("=")[0] for field in logged.split()[2:]] == [field.split("=")[0] for field in line.split()[2:]]


@_for("docs/access-control.md")
def _access_control(stage: Stage) -> Iterator[None]:
    def moment(day: str, time: str) -> datetime:
        return datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=UTC)

    workstation = moment("2026-02-22", "07:30:00"), moment("2026-03-01", "12:05:10")
    modality = moment("2026-02-22", "07:31:12"), moment("2026-03-01", "12:04:58")
    with open_archive(stage.archive()) as parts:
        PeerIndex(parts.database).add(
            [
                PeerSeen("WS_READ1", "PACS", "10.1.2.20", *workstation, 812, "accepted", False, "OFFIS_DCMTK_367"),
                PeerSeen("CT1", "PACS", "10.1.4.7", *modality, 4120, "accepted", False, "CTWARE_7"),
            ]
        )
    yield


@_for("docs/audit.md")
def _audit(stage: Stage) -> Iterator[None]:
    config = stage.archive()
    with open_trail(config.audit) as trail:
        for day in ("2026-03-01", "2026-03-02"):
            with clock(day):
                for _ in range(20):
                    trail.write(an_event("4711"))
    yield
    [record] = [json.loads(block.text) for block in blocks(stage.page) if block.language == "json"]
    day = config.audit.directory / "audit-2026-03-01.jsonl"
    lines = day.read_text().splitlines(keepends=True)
    assert list(json.loads(lines[0])) == list(record)
    assert list(json.loads(lines[0])["event"]) == list(record["event"])
    lines[16] = lines[16].replace("4711", "4712")
    day.write_text("".join(lines))
    code, printed = stage.shell.run("pacs-server audit verify")
    [text] = stage.texts()
    assert code == 1
    assert text in printed


@_for("docs/backup.md")
def _backup(stage: Stage) -> Iterator[None]:
    stage.archive(*_study(count=2))
    stage.names["/backup"] = str(stage.desk / "backups")
    (stage.desk / "backups").mkdir()
    stage.names["pacs.yaml"] = str(stage.file)
    other = {"storage": {"directory": "../new", "min_free_space": 0}, "database": {"path": "../new.db"}}
    (stage.desk / "new.yaml").write_text(yaml.safe_dump({**other, "audit": {"directory": "../new-audit"}}))
    yield
    [text] = stage.texts()
    for line in text.splitlines():
        pattern = line.split()[0].replace("TIME", "*")
        pattern = f"{pattern}**/*" if pattern.endswith("/") else pattern
        assert [path for path in (stage.desk / "backups/pacs").glob(pattern) if path.is_file()], line
    assert len(stage.parsed("pacs-server --config new.yaml find instances --json")) == 2


@_for("docs/commands.md")
def _commands(stage: Stage) -> Iterator[None]:
    elsewhere = {"/etc/bash_completion.d": "completion", "/usr/local/share/man": "man", "/media/stick": "stick"}
    for name, folder in {**elsewhere, "/new": "new"}.items():
        (stage.desk / folder).mkdir()
        stage.names[name] = str(stage.desk / folder)
    (stage.desk / "home/.config/fish/completions").mkdir(parents=True)
    (stage.desk / "new/pacs_server.yaml").write_text("storage: {min_free_space: 0}\n")
    for number in (1, 2):
        write_part10(make_ct(), stage.desk / f"images/{number}.dcm")
    with stage.server() as pacs:
        store(pacs, *_study(PatientName="Doe^Jane", StudyDate="20260303", AccessionNumber="A1"))
        yield
    for file in ("stick/A1/DICOMDIR", "study.zip", "man/man1/pacs-server.1", "home/.bashrc", "home/.zshrc"):
        assert (stage.desk / file).stat().st_size, file
    for file in ("completion/pacs-server", "home/.config/fish/completions/pacs-server.fish"):
        assert "pacs-server" in (stage.desk / file).read_text(), file
    # The reference is what .ci/command-reference makes, which another test holds.
    stage.texts()


@_for("docs/configuration.md")
def _configuration(stage: Stage) -> Iterator[None]:
    yield


@_for("docs/deployment.md")
def _deployment(stage: Stage) -> Iterator[None]:
    (stage.desk / "docker").mkdir()
    yield
    secrets = stage.desk / "docker/secrets"
    password = (secrets / "postgres_password").read_text().strip()
    assert (secrets / "database_url").read_text() == f"postgresql://pacs:{password}@database:5432/pacs\n"
    assert {path.stat().st_mode & 0o077 for path in (secrets, *secrets.iterdir())} == {0}


@_for("docs/dicomweb.md")
def _dicomweb(stage: Stage) -> Iterator[None]:
    write_part10(make_ct(), stage.desk / "image.dcm")
    with stage.server() as pacs:
        store(pacs, make_ct("1.2.3", "1.2.4", "1.2.5", PatientName="Mueller^Jo", StudyDate="20260202"))

        def key() -> str:
            # From then on nobody gets in without one.
            stage.shell.environment["KEY"] = pacs.archive.keys.create("script", Rights("operator"), None)
            del stage.names["$KEY"]
            return "$KEY"

        stage.names["$KEY"] = key
        yield
    assert (stage.desk / "study.zip").read_bytes().startswith(b"PK")
    assert (stage.desk / "image.jpg").read_bytes().startswith(b"\xff\xd8")


@_for("docs/integrity.md")
def _integrity(stage: Stage) -> Iterator[None]:
    config = stage.archive(*_study())
    [file] = (config.storage.directory / STUDY).rglob("*.dcm")
    stage.names["/backup"], stage.names["/restored"] = str(stage.desk / "backups"), str(stage.desk / "restored")
    stage.printed("pacs-server --config pacs_server.yaml backup backups/pacs")
    other = {
        "storage": {"directory": "restored/archive", "min_free_space": 0},
        "database": {"path": "restored/pacs.db"},
    }
    (stage.desk / "restored.yaml").write_text(yaml.safe_dump({**other, "audit": {"directory": "restored/audit"}}))
    yield
    assert [path.name for path in (stage.desk / "restored/archive" / STUDY).rglob("*.dcm")] == [file.name]


@_for("docs/operations.md")
def _operations(stage: Stage) -> Iterator[None]:
    stage.told()
    config = stage.archive(*_study())
    node = OutboxNode(f"sqlite:///{config.database.path}")
    task = node.add()
    node.service.give_up(node.claim()[0], "0xA900")
    node.database.close()
    stage.names["20260301T120000Z-3f2a91"] = lambda: str(stage.parsed("pacs-server trash list --json")[0]["id"])
    for command in ("show", "retry", "cancel"):
        stage.names[f"tasks {command} 17"] = f"tasks {command} {task}"
    yield
    assert len(stage.parsed("pacs-server find studies --json")) == 1


@_for("docs/outgoing.md")
def _outgoing(stage: Stage) -> Iterator[None]:
    other = Stage(stage.desk.parent / "other", stage.page)
    back = [{"ae_title": "PACS", "host": "127.0.0.1", "port": stage.ports["server"]}]
    place = {"host": "127.0.0.1", "port": other.ports["server"]}
    remotes = [{"ae_title": title, **place} for title in ("WS1", "WS2", "RIS")]
    polling = [{"remote": "WS1", "every": "1h"}]
    titled = {"server": {"port": stage.ports["server"], "ae_title": "PACS"}}
    uid = "1.2.840.113619.2.55.3"
    # Both have it, so that it can be sent as well as fetched.
    study = _study(uid, PatientName="Doe^Jane", StudyDate="20260303", AccessionNumber="A12345")
    with (
        other.server(server={"port": other.ports["server"], "ae_title": "WS1"}, remote_aes=back) as there,
        # Not `running`, which looks for what is left of all servers.
        PacsServer(stage.configured(remote_aes=remotes, polling=polling, **titled)) as here,
    ):
        store(there, *study, *_study(uid, 1, SeriesInstanceUID="1.2.9", AccessionNumber="A12345"))
        store(here, *study)
        yield


@_for("docs/patients.md")
def _patients(stage: Stage) -> Iterator[None]:
    born = {"PatientBirthDate": "19800101"}
    stage.archive(
        *_study("1.2.7", PatientID="C1"),
        *_study("1.2.8", PatientID="C1", PatientName="Other^One", **born),
        *_study(PatientID="P9", PatientName="Wrong^One"),
        *_study("1.2.9", PatientID="P1", PatientName="Right^One"),
    )
    keys: list[str] = []

    def key(number: int) -> str:
        if not keys:
            [group] = stage.parsed("pacs-server conflicts --json")["patients"]
            keys.extend(re.findall(r'"(@[\w-]+)"', json.dumps(group)))
        return keys[number]

    stage.names["@12-90af"] = lambda: key(0)
    stage.names["@7-3c1b"] = lambda: key(1)
    stage.names["@m3-6e02"] = lambda: re.findall(r"@m[\w-]+", stage.printed(f"pacs-server patients --study {STUDY}"))[0]
    yield
    [study] = stage.parsed(f"pacs-server find studies --study {STUDY} --json")
    assert "P9" in json.dumps(study)


@_for("docs/runbook.md")
def _runbook(stage: Stage) -> Iterator[None]:
    stage.told()
    with stage.server():
        yield


@_for("docs/testing.md")
def _testing(stage: Stage) -> Iterator[None]:
    # As many studies as on the page would take minutes.
    stage.names["--ct 100 --images 40 --size 512"] = "--ct 2 --images 3 --size 64"
    with stage.server():
        yield
        assert len(stage.parsed("pacs-server find studies --json --config pacs_server.yaml")) == 2
    [text] = stage.texts()
    assert [alike(line) for line in _waited_in_vain().splitlines()] == [alike(line) for line in text.splitlines()]


def _waited_in_vain() -> str:
    """What a test prints whose software sends a part of an object and then aborts."""
    with temporary_pacs() as pacs:
        with RawPeer.associated(("127.0.0.1", pacs.port), calling="MY_TEST", called=pacs.ae_title) as peer:
            *begun, _, _ = encode_message(3, store_request("1.2.3"), bytes(30_000), 16384)
            peer.send(b"".join(begun) + ABORT)
            pacs.wait_for(lambda: pacs.operations)
        with pytest.raises(WaitFailed) as failure:
            pacs.wait_for(received=1, seconds=0.1)
    return f"WaitFailed: {failure.value}".replace("waited for 0.1 s", "waited for 10 s")


@_for("docs/users.md")
def _users(stage: Stage) -> Iterator[None]:
    stage.shell.password = "the password"
    (stage.desk / "ct1.password").write_text("another password\n")
    write_part10(make_ct(), stage.desk / "image.dcm")
    with stage.server(user_identity={"mode": "required"}):
        yield


@_for("docs/workflow.md")
def _workflow(stage: Stage) -> Iterator[None]:
    config = stage.configured()
    with running(config) as pacs:
        asked = datetime.now(UTC)
        schedule = Schedule(asked, asked + timedelta(days=3), Lease("1.1", "node", asked + timedelta(hours=1000)))
        database = Database(f"sqlite:///{config.database.path}")
        request = CommitmentRequest("1.1", (Reference("1.2", "1.3"),))
        transaction, _ = CommitmentIndex(database).add(request, "CT1", "127.0.0.1", schedule)
        database.close()
        pacs.archive.mpps.create("1.2.826.0.1.3680043.9.7.1.5", _step(), "CT1")
        stage.names["commitment retry 17"] = f"commitment retry {transaction.id}"
        stage.names["worklist show 17"] = "worklist show 1"
        yield


def _step() -> dict[str, Any]:
    """A procedure step that has begun, in DICOM JSON."""

    def text(value: str, vr: str) -> dict[str, Any]:
        return {"vr": vr, "Value": [value]}

    scheduled = {"0020000D": text("9.1", "UI"), "00400009": text("S1", "SH")}
    return {
        "00400270": {"vr": "SQ", "Value": [scheduled]}, "00400252": text("IN PROGRESS", "CS"),
        "00400253": text("P", "SH"), "00400241": text("CT1", "AE"), "00400244": text("20250301", "DA"),
        "00400245": text("1015", "TM"), "00080060": text("CT", "CS"),
    }  # fmt: skip
