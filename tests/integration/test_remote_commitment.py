"""A remote is asked to commit to what it got, reports on an association of its own or the same one, and is believed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import servers
from datasets import make_study
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage
from servers import eventually

from pacs_server.app.server import PacsServer
from pacs_server.config import CommitmentConfig, Config, RemoteAEConfig
from pacs_server.config.sections.routing import DeletionRule, RoutingConfig, RoutingRule
from pacs_server.dicom.commitment import Reference, encode_report
from pacs_server.index.remote_commitments import RemoteCommitmentIndex
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import TaskState
from pacs_server.net.message import Command, CommandField

PUSH_MODEL, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"


@dataclass
class Pair:
    """An archive that forwards everything, and the one that it forwards to."""

    here: PacsServer
    there: PacsServer

    def tasks(self, kind: str) -> list[tuple[TaskState, str]]:
        found = self.here._runtime.archive.tasks.tasks(TaskFilter(tuple(TaskState), kind, None), 100)
        return [(task.state, task.last_error) for task in found]


def settings(directory: Path, title: str, **sections: object) -> Config:
    directory.mkdir()
    config = servers.config(directory, ae_title=title)
    return config.model_copy(update=sections)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Both know each other's ports, which are chosen when they start: the second one is told by a reload."""
    with ExitStack() as stack:
        there = settings(tmp_path / "there", "THERE", commitment=CommitmentConfig(same_association=False))
        known: list[Config] = [there]
        b = stack.enter_context(servers.running(there, reload=lambda: known[0]))
        remote = RemoteAEConfig(ae_title="THERE", host="127.0.0.1", port=b.address[1], commitment=True)
        rules = RoutingConfig(
            rules=(RoutingRule(name="all", forward=("THERE",)),),
            delete=(DeletionRule(name="thin", committed_by=("THERE",), after=3600.0),),
        )
        here = settings(tmp_path / "here", "HERE", remote_aes=(remote,), routing=rules)
        a = stack.enter_context(PacsServer(here))
        back = RemoteAEConfig(ae_title="HERE", host="127.0.0.1", port=a.address[1])
        known[0] = there.model_copy(update={"remote_aes": (back,)})
        b.reload()
        yield Pair(a, b)


def test_what_a_remote_has_committed_to_may_be_deleted_here(pair: Pair) -> None:
    study = make_study(1, 3)
    assert servers.store(pair.here, *study) == [0, 0, 0]
    archive = pair.here._runtime.archive
    index = RemoteCommitmentIndex(archive.database)
    uid = str(study[0].StudyInstanceUID)
    # The remote may be asked for the first of them before the others are there.
    assert eventually(lambda: index.deletable(("THERE",), datetime.now(UTC), 2) == [(uid, 3)])
    assert eventually(lambda: {state for state, _ in pair.tasks("ask_commitment")} == {TaskState.DONE})
    assert index.outstanding("THERE", uid) == []
    # Not before its time, and then into the trash.
    commitments, rules = archive.remote_commitments, pair.here._runtime.config().routing.delete
    assert commitments.delete(rules, archive.audit.own, lambda: False) == 0
    soon = tuple(rule.model_copy(update={"after": 0.001}) for rule in rules)
    assert commitments.delete(soon, archive.audit.own, lambda: False) == 1
    (deletion,) = archive.deletions.contents()
    assert (deletion.uid, deletion.instances) == (uid, 3)
    assert deletion.reason == "rule thin: THERE committed to its storage"


def test_what_comes_while_a_study_is_deleted_brings_it_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first, late = make_study(1, 2)
    assert servers.store(pair.here, first) == [0]
    assert eventually(lambda: pair.tasks("ask_commitment") and pair.tasks("ask_commitment")[0][0] is TaskState.DONE)
    archive = pair.here._runtime.archive
    delete = archive.deletions.delete

    def delayed(*arguments: object) -> object:
        assert servers.store(pair.here, late) == [0]
        return delete(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(archive.deletions, "delete", delayed)
    rules = tuple(rule.model_copy(update={"after": 0.001}) for rule in pair.here._runtime.config().routing.delete)
    assert archive.remote_commitments.delete(rules, archive.audit.own, lambda: False) == 0
    assert pair.here.status()["counts"]["instances"] == 2


def test_a_study_that_grew_is_not_deleted(pair: Pair) -> None:
    first, late = make_study(1, 2)
    assert servers.store(pair.here, first) == [0]
    assert eventually(lambda: pair.tasks("ask_commitment") and pair.tasks("ask_commitment")[0][0] is TaskState.DONE)
    archive = pair.here._runtime.archive
    pair.there.stop()
    assert servers.store(pair.here, late) == [0]
    rules = tuple(rule.model_copy(update={"after": 0.001}) for rule in pair.here._runtime.config().routing.delete)
    assert archive.remote_commitments.delete(rules, archive.audit.own, lambda: False) == 0


def test_nobody_else_may_report(pair: Pair) -> None:
    """Otherwise a stranger could have objects deleted."""
    archive = pair.here._runtime.archive
    index = RemoteCommitmentIndex(archive.database)
    ds = make_study(1, 1)[0]
    servers.store(pair.here, ds)
    uid = str(ds.StudyInstanceUID)
    assert eventually(lambda: index.last("THERE", uid) is not None)
    asked = index.last("THERE", uid)
    assert asked is not None
    for title, transaction, status in (
        ("STRANGER", asked.transaction_uid, 0x0124), ("THERE", "1.2.3.4", 0x0115), ("THERE", asked.transaction_uid, 0),
    ):  # fmt: skip
        results = [(Reference(ds.SOPClassUID, ds.SOPInstanceUID), 0)]
        event, data = encode_report(transaction, "", results, servers.EXPLICIT)
        contexts = ((PUSH_MODEL, (servers.EXPLICIT,)),)
        with servers.RawPeer.associated(pair.here.address, *contexts, calling=title) as peer:
            request = Command(
                command_field=CommandField.N_EVENT_REPORT, message_id=1, affected_sop_class_uid=PUSH_MODEL,
                affected_sop_instance_uid=WELL_KNOWN, event_type_id=int(event),
            )  # fmt: skip
            peer.send(servers.message(1, request, data))
            assert peer.read_message().command.status == status, title


class Committing:
    """An archive, not ours, that commits to everything, on the association of the request."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self._threads: list[threading.Thread] = []
        ae = AE(ae_title="THERE")
        ae.add_supported_context(CTImageStorage)
        ae.add_supported_context(PUSH_MODEL)
        handlers = [
            (evt.EVT_C_STORE, lambda event: 0),
            (evt.EVT_N_ACTION, self._asked),
        ]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        self._threads.append(threading.Thread(target=self._report, args=(event.assoc, event.action_information)))
        self._threads[-1].start()
        return 0, None

    def _report(self, association: Association, report: Dataset) -> None:
        other = Dataset()
        other.update(report)
        other.TransactionUID = "1.2.3"
        for each in (other, report):
            status, _ = association.send_n_event_report(each, 1, PUSH_MODEL, WELL_KNOWN)
            self.answers.append(status.Status)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(servers.PATIENT_SECONDS)
        self._server.shutdown()


def here_with(directory: Path, port: int) -> Config:
    remote = RemoteAEConfig(ae_title="THERE", host="127.0.0.1", port=port, commitment=True)
    rules = RoutingConfig(rules=(RoutingRule(name="all", forward=("THERE",)),))
    return settings(directory, "HERE", remote_aes=(remote,), routing=rules)


def test_a_report_on_the_association_of_the_request_is_taken(tmp_path: Path) -> None:
    with closing(Committing()) as there, servers.running(here_with(tmp_path / "here", there.port)) as here:
        study = make_study(1, 2)
        assert servers.store(here, *study) == [0, 0]
        index = RemoteCommitmentIndex(here.archive.database)
        uid = str(study[0].StudyInstanceUID)
        assert eventually(lambda: index.deletable(("THERE",), datetime.now(UTC), 2) == [(uid, 2)], 30)
        assert eventually(lambda: {state for state, _ in Pair(here, here).tasks("ask_commitment")} == {TaskState.DONE})
    # Reports may come before the answer to the request. One about a transaction that nobody began hinders nothing.
    assert there.answers[:2] == [0x0115, 0]
