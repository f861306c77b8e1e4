"""Nothing that is known of a patient gets into the log, the metrics, the status, or a comment in an answer."""

import itertools
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import orders
import pytest
from datasets import UID_PREFIX, make_ct
from hl7.client import MLLPClient
from hostile import payloads
from hostile.peers import CONTEXT, MPPS, Peer, command, everything
from processes import PacsProcess, run_command, wait_for
from servers import CT, message
from worklists import item_dataset

from pacs_server.net.message import Command, CommandField

# Each is like nothing else in a log.
NAME, PATIENT_ID, BIRTH, ACCESSION = "Quillanzyx^Ottoline", "QXPATID7731", "19370411", "QXACC9917"
DESCRIPTION, PHYSICIAN, ADDRESS = "qxfractured clavicle", "Qxrefer^Doctor", "qxstreet 5"
SECRETS = [NAME, "Quillanzyx", "Ottoline", PATIENT_ID, BIRTH, "1937-04-11", ACCESSION, DESCRIPTION, PHYSICIAN, ADDRESS]
SECRETS += ["Qxrefer"]

PATIENT = {
    0x00080050: ("SH", ACCESSION),
    0x00080090: ("PN", PHYSICIAN),
    0x00081030: ("LO", DESCRIPTION),
    0x00100010: ("PN", NAME),
    0x00100020: ("LO", PATIENT_ID),
    0x00100030: ("DA", BIRTH),
    0x00101040: ("LO", ADDRESS),
}
# Where a value is looked at closely, and may be found wrong.
JUDGED = {
    0x00080005: "CS", 0x00080016: "UI", 0x00080018: "UI", 0x00080020: "DA", 0x00080030: "TM", 0x00080052: "CS",
    0x00080060: "CS", 0x00081120: "SQ", 0x00100021: "LO", 0x00100030: "DA", 0x0020000D: "UI", 0x0020000E: "UI",
    0x00200013: "IS", 0x00400100: "SQ", 0x00400241: "AE", 0x00400244: "DA", 0x00400245: "TM", 0x00400252: "CS",
    0x00400270: "SQ", 0x00400340: "SQ", 0x00081199: "SQ", 0x00081195: "UI",
}  # fmt: skip
STUDY = f"{UID_PREFIX}77.1"


def variations(base: dict[int, tuple[str, str]], *, implicit: bool = False) -> Iterator[bytes]:
    """A data set as it should be, then with a value of the patient wherever one is judged, then cut off."""
    whole = payloads.data_set(base | PATIENT, implicit=implicit)
    yield whole
    for (tag, vr), (_, value) in itertools.product(JUDGED.items(), PATIENT.values()):
        yield payloads.data_set(base | PATIENT | {tag: (vr, value)}, implicit=implicit)
    yield from (whole[:-1], whole[:-30], whole[: len(whole) // 2])


class Comments:
    """Asks, and keeps every Error Comment that comes back."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._peer: Peer | None = None
        self.heard: list[str] = []
        self.statuses: set[int | None] = set()

    def ask(self, service: str, request: Command, data: bytes | None) -> None:
        """Ask over the association at hand, or a new one if the server ended that."""
        if self._peer is None:
            self._peer = Peer(self._address)
            self._peer.associate(everything("CT1"))
        self._peer.push(message(CONTEXT[service], request, data))
        status: int | None = 0xFF00
        while status in (0xFF00, 0xFF01):
            try:
                answer = self._peer.read_message().command
            except (EOFError, AssertionError):
                self.close()
                status = None
                break
            status = answer.status
            self.heard.append(answer.error_comment or "")
        self.statuses.add(status)

    def close(self) -> None:
        if self._peer is not None:
            self._peer.socket.close()
        self._peer = None


@pytest.fixture(params=[("text", "info"), ("json", "debug")], ids="-".join)
def pacs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PacsProcess]:
    form, level = request.param
    # Bound and not listening: nobody answers there, and nobody else gets the port.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        settings = {
            "logging": {"format": form, "level": level, "file": str(tmp_path / "logs" / "pacs.log")},
            "worklist": {"folder": str(tmp_path / "orders"), "folder_interval": 0.1, "hl7_port": 0},
            "remote_aes": [{"ae_title": "DEAD", "host": "127.0.0.1", "port": nobody.getsockname()[1]}],
        }
        with PacsProcess(tmp_path / "server", settings=settings) as pacs:
            yield pacs


def over_dimse(pacs: PacsProcess) -> Comments:
    """Store, query, retrieve, worklist, procedure steps, commitment: as they should be, and broken."""
    comments = Comments((pacs.host, pacs.port))
    sop = f"{STUDY}.2"
    ct = {0x00080016: ("UI", CT), 0x00080018: ("UI", sop), 0x00080060: ("CS", "CT"), 0x0020000D: ("UI", STUDY)}
    ct |= {0x0020000E: ("UI", f"{STUDY}.1")}
    for data in variations(ct):
        comments.ask("store", command("store", affected_sop_instance_uid=sop), data)
    for wrong in (PATIENT_ID, NAME):
        comments.ask("store", command("store", affected_sop_instance_uid=wrong), payloads.data_set(ct | PATIENT))
    for level, service in itertools.product(("STUDY", "SERIES", "IMAGE"), ("find", "move", "get")):
        keys = {0x00080052: ("CS", level), 0x0020000D: ("UI", STUDY if level != "STUDY" or service != "find" else "")}
        for data in variations(keys, implicit=True):
            comments.ask(service, command(service), data)
    move = command("move", move_destination="DEAD")
    comments.ask(
        "move", move, payloads.data_set({0x00080052: ("CS", "STUDY"), 0x0020000D: ("UI", STUDY)}, implicit=True)
    )
    for data in variations({}):
        comments.ask("worklist", command("worklist"), data)
        comments.ask("commitment", command("commitment"), data)
    comments.ask("commitment", command("commitment"), payloads.references([sop, "1.2.3.4.77"]))
    for number, (tag, vr) in enumerate(JUDGED.items()):
        for _, value in PATIENT.values():
            step = payloads.step(PATIENT | {tag: (vr, value)})
            comments.ask("mpps", command("mpps", affected_sop_instance_uid=f"1.2.9.{number}"), step)
    comments.ask("mpps", command("mpps", affected_sop_instance_uid="1.2.9"), payloads.step(PATIENT))
    change = Command(CommandField.N_SET, requested_sop_class_uid=MPPS, requested_sop_instance_uid="1.2.9", message_id=1)
    for data in variations({0x00400252: ("CS", "COMPLETED")}):
        comments.ask("mpps", change, data)
    comments.close()
    assert {0x0000, 0xA900, 0xC000, 0x0111, 0x0106, 0xA801, 0xA702} <= comments.statuses
    return comments


def orders_of(pacs: PacsProcess, folder: Path) -> None:
    """Orders by folder, command line and HL7: good ones and bad ones."""
    item = {"PatientName": NAME, "PatientID": PATIENT_ID, "PatientBirthDate": BIRTH, "AccessionNumber": ACCESSION}
    files = {
        "good.json": json.dumps([item_dataset(**item).to_json_dict()]).encode(),
        "bad.json": json.dumps([{"00100030": {"vr": "DA", "Value": [{"Alphabetic": NAME}]}}]).encode(),
        "none.json": f"{{{NAME!r}".encode(),
        "headless.csv": f"{NAME},{PATIENT_ID},{BIRTH}\n".encode(),
        "bad.csv": f"PatientName,PatientBirthDate,Modality\n{NAME},{PATIENT_ID},{ACCESSION}\n".encode(),
        "none.wl": NAME.encode(),
    }
    wrong = {0x00080005: "CS", 0x00080050: "UI", 0x00100030: "DA", 0x00101030: "DS", 0x0020000D: "UI"}
    for tag, vr in wrong.items():
        files[f"{tag:08X}.wl"] = payloads.data_set(PATIENT | {tag: (vr, NAME)})
    for name, data in files.items():
        (folder / f".{name}").write_bytes(data)
        (folder / f".{name}").rename(folder / name)
    wait_for(lambda: not [one for one in folder.iterdir() if one.is_file()], "the files to be taken")
    with MLLPClient("127.0.0.1", _hl7_port(pacs)) as client:
        good = orders.ORDER.replace("Müller^Anna", NAME).replace("19700101", BIRTH).replace("|A1|", f"|{ACCESSION}2|")
        for old, new in (
            ("", ""),
            ("20260105093000", NAME),
            ("ORC|NW", f"ORC|{NAME}"),
            ("2.3.1", ACCESSION),
            ("A1", ""),
        ):
            client.send_message(orders.order(text=good.replace(old, new) if old else good))
        client.send_message(orders.wire(good.replace("PID", "PIX")))
        client.send_message(orders.order(control="CA", accession_number=ACCESSION, text=good))


def _hl7_port(pacs: PacsProcess) -> int:
    found = re.search(r'\bhl7(?:=|":")127\.0\.0\.1:(\d+)', pacs.log())
    assert found
    return int(found[1])


def imported(pacs: PacsProcess, folder: Path) -> str:
    """What an import prints, of files that are good, cut off, and wrong."""
    folder.mkdir()
    known = {"PatientName": NAME, "PatientID": PATIENT_ID, "PatientBirthDate": BIRTH, "AccessionNumber": ACCESSION}
    good = make_ct(StudyDescription=DESCRIPTION, **known)
    good.save_as(folder / "good.dcm", enforce_file_format=True)
    data = (folder / "good.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(data[:-100])
    study = str(good.StudyInstanceUID).encode()
    (folder / "study.dcm").write_bytes(data.replace(study, PATIENT_ID.ljust(len(study)).encode()))
    (folder / "vr.dcm").write_bytes(data.replace(b"\x10\x00\x30\x00DA", b"\x10\x00\x30\x00XX"))
    done = run_command("--config", pacs.config_file, "import", folder, cwd=folder)
    assert done.returncode == 1
    assert "stored 1" in done.stdout
    return done.stdout + done.stderr


@pytest.mark.interop
def test_no_patient_anywhere_but_in_answers_and_the_audit_trail(pacs: PacsProcess, tmp_path: Path) -> None:
    comments = over_dimse(pacs)
    orders_of(pacs, tmp_path / "orders")
    told = {"import": imported(pacs, tmp_path / "files"), "comments": "\n".join(comments.heard)}
    for level in ("-P", "-S"):
        dcmtk.run("findscu", level, "-k", "QueryRetrieveLevel=STUDY", "-k", f"PatientName={NAME}", pacs.host, pacs.port)
    told |= {page: pacs.get(page)[1] for page in ("/metrics", "/status", "/healthz", "/readyz")}
    pacs.stop()
    told |= {"standard error": pacs.log(), "log": (tmp_path / "logs" / "pacs.log").read_text()}
    assert told["log"].count("\n") > 500
    found = {
        (where, line)
        for where, text in told.items()
        for line in text.splitlines()
        if any(secret.lower() in line.lower() for secret in SECRETS)
    }
    assert found == set()
