"""The npm package dcmjs-dimse, DIMSE for node, as SCU of this server and as a remote to which it sends."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from select import select
from typing import Any

import npm
import pytest
from datasets import make_study, write_part10
from outgoing import outgoing, pool, remote
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from servers import config, eventually, free_port, running

from pacs_server.app.server import PacsServer
from pacs_server.config import RemoteAEConfig
from pacs_server.config.sections.routing import RoutingConfig, RoutingRule
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.echo import echo

# All of them, so that they run together and node starts once.
pytestmark = pytest.mark.slow
PACKAGES = ("dcmjs-dimse@0.3.3",)
SCRIPT = Path(__file__).parent.parent / "dcmjs_dimse.mjs"
SECONDS = 30.0
STUDY = make_study(2, 2, PatientID="NODE1", PatientName="Müller^Jörg", StudyDescription="Thorax")
FORWARDED = make_study(1, 3, PatientID="NODE2", PatientName="Forward^All")
UID = str(STUDY[0].StudyInstanceUID)


class Peer:
    """dcmjs-dimse in node: a Storage SCP, and an SCU that does what it is asked for."""

    def __init__(self, directory: Path) -> None:
        script = npm.installed("dcmjs-dimse", PACKAGES, SCRIPT)
        self.port = free_port()
        self.server: PacsServer | None = None
        with (directory / "node.log").open("wb") as log:
            command = [npm.node(), str(script), str(self.port)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        assert self._line() == {"ready": True}

    def ask(self, verb: str, **asked: Any) -> Any:
        """What it answers; fails if it could not."""
        if self.server is not None:
            asked |= {"port": self.server.address[1], "called": "PACS"}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"verb": verb} | asked).encode() + b"\n")
        answer = self._line()
        assert "error" not in answer, answer
        return answer

    def received(self) -> dict[str, dict[str, Any]]:
        """What came on associations with its SCP, by SOP Instance UID."""
        return {each["uid"]: each for each in self.ask("received")["received"]}

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.stdout.close()

    def _line(self) -> Any:
        out, data, deadline = self._process.stdout, b"", time.monotonic() + SECONDS
        assert out is not None
        while not data.endswith(b"\n"):
            assert select([out], [], [], max(0.0, deadline - time.monotonic()))[0], "node does not answer"
            piece = out.read(1 << 16)
            assert piece, "node has ended"
            data += piece
        return json.loads(data)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """It has stored a study here, as NODE, and everything else that arrives is forwarded to it."""
    directory = tmp_path_factory.mktemp("node")
    made = Peer(directory)
    try:
        there = RemoteAEConfig(ae_title="NODE", host="127.0.0.1", port=made.port)
        settings = config(directory, remote_aes=[there], ae_title="PACS")
        rules = RoutingConfig(rules=(RoutingRule(name="all", forward=("NODE",)),))
        with running(settings.model_copy(update={"routing": rules})) as pacs:
            made.server = pacs
            files = [str(write_part10(ds, directory / f"{n}.dcm")) for n, ds in enumerate(STUDY)]
            assert [each["status"] for each in made.ask("store", files=files)] == [0] * len(STUDY)
            yield made
    finally:
        made.close()


def uids(instances: list[Dataset]) -> set[str]:
    return {str(each.SOPInstanceUID) for each in instances}


def test_it_echoes_and_is_echoed(peer: Peer) -> None:
    assert [each["status"] for each in peer.ask("echo")] == [0]
    before = peer.ask("received")["echoed"]
    with pool() as ours:
        assert echo(ours, remote(peer.port, "NODE")).round_trip > 0
    assert peer.ask("received")["echoed"] == before + 1


def test_it_finds_at_every_level(peer: Peer) -> None:
    series = {str(each.SeriesInstanceUID) for each in STUDY}
    (study,) = peer.ask("findStudies", keys={"PatientID": "NODE1", "PatientName": "mül*", "StudyInstanceUID": ""})
    assert study["status"] == 0
    (match,) = study["matches"]
    assert match["StudyInstanceUID"] == UID
    (found,) = peer.ask("findSeries", keys={"StudyInstanceUID": UID, "SeriesInstanceUID": "", "Modality": "CT"})
    assert {each["SeriesInstanceUID"] for each in found["matches"]} == series
    keys = {"StudyInstanceUID": UID, "SeriesInstanceUID": str(STUDY[0].SeriesInstanceUID), "SOPInstanceUID": ""}
    (found,) = peer.ask("findImages", keys=keys)
    assert {each["SOPInstanceUID"] for each in found["matches"]} == uids(STUDY[:2])
    assert peer.ask("findStudies", keys={"PatientID": "NOBODY", "StudyInstanceUID": ""})[0]["matches"] == []


def test_it_gets_a_study(peer: Peer) -> None:
    (done,) = peer.ask("get", study=UID)
    assert (done["status"], done["completed"]) == (0, len(STUDY))
    assert {each["uid"] for each in done["stored"]} == uids(STUDY)
    assert {each["pixels"] for each in done["stored"]} == {len(STUDY[0].PixelData)}


def test_what_arrives_is_forwarded_to_it_but_not_what_it_sent(peer: Peer) -> None:
    assert peer.server is not None
    with pool(ae_title="CT1") as theirs, DIMSESender(theirs, remote(peer.server.address[1], "PACS")) as sender:
        assert {sender.send(outgoing(each)).status for each in FORWARDED} == {0}
    wanted = uids(FORWARDED)
    assert eventually(lambda: wanted <= set(peer.received()), SECONDS)
    received = peer.received()
    assert {received[each]["name"] for each in wanted} == {"Forward^All"}
    assert {received[each]["syntax"] for each in wanted} == {ExplicitVRLittleEndian}
    breakers = peer.server.archive.breakers
    # States are read once a second.
    assert eventually(lambda: breakers.state("NODE").implementation.vendor() == "dcmjs-dimse")
    # The study has its place before these in the feed of changes, and would have come before them.
    assert not uids(STUDY) & set(received)


def test_it_has_a_study_moved_to_itself(peer: Peer) -> None:
    (done,) = peer.ask("move", study=UID, to="NODE")
    assert (done["status"], done["completed"]) == (0, len(STUDY))
    received = peer.received()
    assert uids(STUDY) <= set(received)
    assert {(received[each]["calling"], received[each]["called"]) for each in uids(STUDY)} == {("PACS", "NODE")}
