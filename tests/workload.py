"""What several peers do with one server at the same time, round by round, and what has to be true of it.

Everything is noted that the server acknowledged. While somebody has brought a fault about, requests
may fail; what was acknowledged may not go away, and answers may not be wrong.
"""

import contextlib
import hashlib
import os
import random
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orders
import tlspeer
from datasets import make_ct, parse_data_set, uid
from hl7.client import MLLPClient
from hostile.payloads import ct, data_set, keys, references, step
from hostile.peers import COMMITMENT, COMMITMENT_INSTANCE, CONTEXT, MPPS, Peer, command, everything
from processes import PacsProcess, run_command, wait_for
from rawpeer import Instance, association, response, retrieve, store, study_keys
from receivers import (
    Received,
    Script,
    aborts,
    answered,
    bare,
    closes,
    in_bytes,
    late,
    never,
    of_another,
    out_of_order,
    releases,
    resets,
    status,
    twice,
    with_data,
)
from servers import CT, EXPLICIT, IMPLICIT, Collector, message
from sqlalchemy import create_engine, text

from pacs_server.net.message import RESPONSE, Command, CommandField
from pacs_server.net.transport import AssociationEnded

SENDERS = 3
_PER_STUDY = 6
_PAUSE = 0.02
_PENDING = (0xFF00, 0xFF01)
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
_ODDITIES: list[Script] = [
    *(status(0xA700), status(0xB007), status(None), bare, of_another, with_data, in_bytes),
    *(twice, out_of_order, never, late, aborts, closes, resets, releases),
]
_FAILURES = (AssociationEnded, OSError, EOFError, AssertionError)
_QUIET_SECONDS = 30.0


class Broken(Exception):
    """The server broke a promise, which no fault excuses."""


def oddly(choices: random.Random) -> Script:
    """Answer an instance well, or oddly, or not at all."""

    def script(received: Received) -> None:
        choices.choice([answered] * len(_ODDITIES) + _ODDITIES)(received)

    return script


@dataclass(frozen=True)
class Sample:
    """What an idle server holds; `memory` is resident, in bytes."""

    threads: int
    sockets: int
    files: int
    memory: int

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.sockets}+{self.files} descriptors, {self.memory >> 20} MiB"


class Workload:
    """Peers of every kind against `pacs`; what it acknowledged, how often which act went well, and what went wrong."""

    def __init__(self, pacs: PacsProcess, collector: Collector, secure: ssl.SSLContext, seed: int) -> None:
        """`secure` is how to speak TLS with it; it has to know a destination ODD that answers `oddly`."""
        self.pacs = pacs
        self.collector = collector
        self._secure = secure
        self.choices = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.disturbed_failures = 0
        self.problems: list[str] = []
        self.acknowledged: dict[str, str] = {}
        self.studies: dict[str, dict[str, str]] = {}
        self.steps: set[str] = set()
        self.orders: set[str] = set()
        # Held by who changes the configuration, or reads it again.
        self.configuring = threading.Lock()
        self.acts: list[tuple[str, Callable[[], None]]] = [("store", self._store)] * SENDERS
        self.acts += [
            *(("echo", self._echo), ("find", self._find), ("levels", self._levels), ("get", self._get)),
            *(("move", self._move), ("odd move", self._odd_move), ("worklist", self._worklist)),
            *(("order", self._order), ("step", self._step), ("commitment", self._commitment), ("cut", self._cut)),
        ]
        self._faults = 0
        self._fault = False
        self._ended = threading.Event()
        self._threads_at_rest = 0

    # ---------------------------------------------------------------- rounds

    def work(self, seconds: float, fault: Callable[[], None] | None = None) -> None:
        """Let all peers work for so long, with a fault in the middle if there is one."""
        self._ended.clear()
        threads = [threading.Thread(target=self._repeat, args=act) for act in self.acts]
        for thread in threads:
            thread.start()
        try:
            self._ended.wait(seconds / 2)
            if fault is not None:
                with self._disturbed():
                    fault()
            self._ended.wait(seconds / 2)
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(120)
        if any(thread.is_alive() for thread in threads):
            raise Broken("a peer hangs")

    def sample(self) -> Sample:
        """What the server holds when nobody is connected; fails if its threads do not end."""
        folder = f"/proc/{self.pacs.pid}"
        # The web port keeps the thread that has looked at the database for it.
        self.pacs.get("/readyz")
        self._threads_at_rest = self._threads_at_rest or self._fewest()
        wait_for(lambda: self._threads() <= self._threads_at_rest, "the threads of peers to end", _QUIET_SECONDS)
        wait_for(lambda: not self.pacs.incoming(), "half received files to be removed", _QUIET_SECONDS)
        links = []
        for name in os.listdir(f"{folder}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"{folder}/fd/{name}"))
        sockets = sum(link.startswith("socket:") for link in links)
        return Sample(self._threads(), sockets, len(links) - sockets, self.pacs.memory("VmRSS"))

    def _fewest(self) -> int:
        seen = []
        for _ in range(100):
            seen.append(self._threads())
            time.sleep(0.01)
        return min(seen)

    def _threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pacs.pid}/task"))

    @contextlib.contextmanager
    def _disturbed(self) -> Iterator[None]:
        with self.configuring:
            self._fault = True
            self._faults += 1
            try:
                yield
                wait_for(lambda: self.pacs.get("/readyz")[0] == 200, "the server to be ready again", 60)
                # A store shows that it takes objects again; only then nothing may fail any more.
                wait_for(self._takes, "a store after the fault", 60)
            finally:
                self._fault = False

    def _takes(self) -> bool:
        with contextlib.suppress(*_FAILURES):
            self._store()
            return True
        return False

    def _repeat(self, name: str, act: Callable[[], None]) -> None:
        while not self._ended.is_set():
            calm = None if self._fault else self._faults
            try:
                act()
                self.done[name] += 1
            except Broken as error:
                self.problems.append(f"{name}: {error}")
            except Exception as error:  # noqa: BLE001 - a peer that fell over would leave the server in peace
                if self._fault or self._faults != calm:
                    self.disturbed_failures += 1
                else:
                    self.problems.append(f"{name}: {type(error).__name__}: {error}")
                self._ended.wait(0.1)
            self._ended.wait(_PAUSE)

    # ---------------------------------------------------------------- what peers do

    def _store(self) -> None:
        study, sent = self.sent(self.acknowledged)
        self.studies[study] = sent

    def sent(self, acknowledged: dict[str, str] | None = None, **attributes: Any) -> tuple[str, dict[str, str]]:
        """Store a study; its UID, and the digests of its instances, each put into `acknowledged` when it is."""
        study, series = str(uid()), str(uid())
        sent: dict[str, str] = {}
        with association(self.pacs.port, [(CT, EXPLICIT)]) as link:
            for _ in range(_PER_STUDY):
                instance = Instance.of(make_ct(study, series, rows=self.choices.choice((8, 64, 256)), **attributes))
                # Now and then again, as modalities do that have not seen the answer.
                for _ in range(self.choices.choice((1, 1, 1, 2))):
                    status = store(link, instance).status
                    assert status == 0, f"0x{status or 0:04X}"
                sent[instance.sop_instance_uid] = digest(instance.data)
                if acknowledged is not None:
                    acknowledged |= sent
        return study, sent

    def know(self, study: str, sent: dict[str, str]) -> None:
        """Take a study among those that have to be there at the end."""
        self.acknowledged |= sent
        self.studies[study] = sent

    def finds(self, study: str, patient: str = "") -> bool:
        """Whether a query finds a study, of this patient if one is named."""
        asked = {0x0020000D: ("UI", study)} | ({0x00100020: ("LO", patient)} if patient else {})
        return bool(self._matches("find", keys("STUDY", asked)))

    def _echo(self) -> None:
        """Over TLS and without."""
        with self._peer() as peer:
            assert peer.echo() == 0
            peer.release()
        tlspeer.echo(self._address("tls"), self._secure)

    def _address(self, name: str) -> tuple[str, int]:
        """Of a port that the server has named in its log, the last time that it started."""
        host, port = re.findall(rf"listening .*\b{name}=(\S+):(\d+)", self.pacs.log())[-1]
        return host, int(port)

    def _find(self) -> None:
        study, _ = self._known_or_stored()
        if len(found := self._matches("find", keys("STUDY", {0x0020000D: ("UI", study)}))) != 1:
            raise Broken(f"{len(found)} matches for the study {study}")

    def _levels(self) -> None:
        """From a study down to its instances, and from its patient."""
        study, sent = self._known_or_stored()
        of_study = {0x0020000D: ("UI", study), 0x0020000E: ("UI", "")}
        (found,) = self._matches("find", keys("SERIES", of_study))
        series = str(parse_data_set(found, IMPLICIT).SeriesInstanceUID)
        of_series = of_study | {0x0020000E: ("UI", series), 0x00080018: ("UI", "")}
        if len(found := self._matches("find", keys("IMAGE", of_series))) != len(sent):
            raise Broken(f"{len(found)} of {len(sent)} instances of {study} are found")
        with association(self.pacs.port, [(PATIENT_FIND, IMPLICIT)]) as link:
            request = command("find", affected_sop_class_uid=PATIENT_FIND, message_id=link.next_message_id())
            link.send(1, request, keys("PATIENT", {0x00100020: ("LO", "P1")}))
            statuses = [response(link, request).status]
            while statuses[-1] in _PENDING:
                statuses.append(response(link, request).status)
        assert statuses[-1] == 0, f"0x{statuses[-1] or 0:04X}"
        if len(statuses) != 2:
            raise Broken(f"{len(statuses) - 1} matches for one patient")

    def _matches(self, service: str, identifier: bytes) -> list[bytes]:
        with self._peer() as peer:
            peer.send(message(CONTEXT[service], command(service), identifier))
            found = []
            while (reply := peer.read_message()).command.status in _PENDING:
                found.append(reply.data)
            assert reply.command.status == 0, f"0x{reply.command.status or 0:04X}"
        return found

    def _known_or_stored(self) -> tuple[str, dict[str, str]]:
        if not self.studies:
            self._store()
        return self.choices.choice(list(self.studies.items()))

    def _get(self) -> None:
        study, sent = self._known_or_stored()
        final, received = retrieve(self.pacs.port, [(CT, EXPLICIT)], study_keys(study))
        assert final.status == 0, f"0x{final.status or 0:04X}"
        if {name: digest(data) for name, data in received.items()} != sent:
            raise Broken(f"C-GET of {study} brought something else than was stored")

    def _move(self) -> None:
        study, sent = self._known_or_stored()
        self.collector.instances.clear()
        with self._peer() as peer:
            request = command("move", move_destination=self.collector.remote.ae_title)
            status = peer.ask("move", request, keys("STUDY", {0x0020000D: ("UI", study)}))
        assert status == 0, f"{status}"
        if {each.sop_instance_uid: digest(each.data) for each in self.collector.instances} != sent:
            raise Broken(f"C-MOVE of {study} brought something else than was stored")

    def _odd_move(self) -> None:
        """A C-MOVE to a destination that has its ways: whatever becomes of each instance, all are counted."""
        study, sent = self._known_or_stored()
        with self._peer() as peer:
            asked = keys("STUDY", {0x0020000D: ("UI", study)})
            peer.push(message(CONTEXT["move"], command("move", move_destination="ODD"), asked))
            while (final := peer.read_message().command).status in _PENDING:
                pass
            assert final.status in (0, 0xB000, 0xA702), f"0x{final.status or 0:04X}"
            assert peer.echo() == 0
        numbers = (final.number_of_completed, final.number_of_failed, final.number_of_warning)
        if sum(number or 0 for number in numbers) != len(sent) or (final.status == 0) != (numbers[0] == len(sent)):
            raise Broken(f"C-MOVE of {len(sent)} instances counted {numbers}, 0x{final.status or 0:04X}")

    def _worklist(self) -> None:
        known = list(self.orders)
        accession = self.choices.choice(known) if known else "NONE"
        asked = data_set({0x00080050: ("SH", accession), 0x00100010: ("PN", "")})
        if (found := len(self._matches("worklist", asked))) != bool(known):
            raise Broken(f"{found} worklist items of {accession}")

    def _order(self) -> None:
        number = str(uid()).rpartition(".")[2]
        accession = f"S{number}"
        with MLLPClient(*self._address("hl7")) as client:
            client.socket.settimeout(20)
            answer = orders.answer(client.send_message(orders.order(control_id=number, accession_number=accession)))
        assert answer[0] == "AA", answer
        self.orders.add(accession)

    def _step(self) -> None:
        name = str(uid())
        with self._peer() as peer:
            status = peer.ask("mpps", command("mpps", affected_sop_instance_uid=name), step())
            assert status == 0, f"{status}"
            self.steps.add(name)
            change = Command(CommandField.N_SET, requested_sop_class_uid=MPPS, requested_sop_instance_uid=name)
            change.message_id = 2
            status = peer.ask("mpps", change, data_set({0x00400254: ("LO", "Thorax")}))
            assert status == 0, f"{status}"

    def _commitment(self) -> None:
        _, sent = self._known_or_stored()
        with self._peer() as peer:
            asked = references(sent, str(uid()))
            status = peer.ask("commitment", command("commitment"), asked)
            assert status == 0, f"{status}"
            report = peer.read_message()
            assert report.command.command_field == CommandField.N_EVENT_REPORT
            answer = Command(
                CommandField.N_EVENT_REPORT | RESPONSE, affected_sop_class_uid=COMMITMENT, status=0,
                message_id_being_responded_to=report.command.message_id,
                affected_sop_instance_uid=COMMITMENT_INSTANCE, event_type_id=report.command.event_type_id,
            )  # fmt: skip
            peer.send(message(CONTEXT["commitment"], answer))
        if report.command.event_type_id != 1:
            raise Broken("no commitment for what was acknowledged")

    def _cut(self) -> None:
        """A store that ends somewhere, with an abort, a reset, or the end of the stream."""
        name = str(uid())
        whole = message(CONTEXT["store"], command("store", affected_sop_instance_uid=name), ct(name))
        with self._peer() as peer:
            peer.push(whole[: self.choices.randrange(len(whole))])
            how = self.choices.randrange(3)
            if how == 0:
                peer.reset()
            elif how == 1:
                peer.push(b"\x07\0\0\0\0\x04\0\0\0\0")

    @contextlib.contextmanager
    def _peer(self) -> Iterator[Peer]:
        with Peer((self.pacs.host, self.pacs.port)) as peer:
            peer.associate(everything("WORKER"))
            yield peer

    # ---------------------------------------------------------------- at the end

    def check(self) -> None:
        """Hold that all that was acknowledged is there, byte for byte, and that files and index agree."""
        with self._connected() as connection:
            rows = dict(connection.execute(text("SELECT sop_instance_uid, digest FROM instance")).tuples().all())
            steps = set(connection.scalars(text("SELECT sop_instance_uid FROM procedure_step")))
            known = set(connection.scalars(text("SELECT accession_number FROM worklist_item")))
        lost = {name for name, digest in self.acknowledged.items() if rows.get(name) != digest}
        for what, missing in (("instances", lost), ("steps", self.steps - steps), ("orders", self.orders - known)):
            if missing:
                raise Broken(f"{len(missing)} acknowledged {what} are lost, such as {min(missing)}")
        for study, sent in self.studies.items():
            final, received = retrieve(self.pacs.port, [(CT, EXPLICIT)], study_keys(study))
            if final.status != 0 or {name: digest(data) for name, data in received.items()} != sent:
                raise Broken(f"{study} comes back with 0x{final.status or 0:04X}, or other than it was stored")
        verified = run_command("verify", "--config", self.pacs.config_file, cwd=self.pacs.directory, timeout=600)
        if verified.returncode != 0:
            raise Broken(f"verify: {verified.stdout[-2000:]} {verified.stderr[-2000:]}")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        engine = create_engine(self.pacs.database_url or f"sqlite:///{self.pacs.directory / 'pacs.db'}")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
