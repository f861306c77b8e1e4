"""A night of forwarding: fifty studies to three remotes, one of them down and one full, and a server that is killed."""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commandline import call_command
from datasets import make_study, write_part10
from processes import PacsProcess, wait_for
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import CTImageStorage, Verification
from servers import free_port
from sqlalchemy import select, text, update

from pacs_server.index.database import Database
from pacs_server.index.outgoing_models import delivery, remote_state
from pacs_server.index.task_models import task
from pacs_server.outbox.notes import MOST_LOST

pytestmark = pytest.mark.slow

STUDIES, EACH, ROOM, AT_ONCE = 50, 2, 30, 2
FORWARDING = {
    "retry_first": 0.3, "retry_max": 1.0, "give_up_after": 5.0,
    "breaker_failures": 3, "breaker_first": 0.3, "breaker_max": 1.0,
}  # fmt: skip
IS_OPEN = task.c.state.in_(("ready", "running"))


@dataclass
class Destination:
    """A Storage SCP with room for so many instances, which takes 5 ms for each."""

    port: int
    room: int = 1_000_000
    received: Counter[str] = field(default_factory=Counter)
    associations: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def store(self, event: evt.Event) -> int:
        time.sleep(0.005)
        uid = str(event.request.AffectedSOPInstanceUID)
        with self.lock:
            if uid not in self.received and len(self.received) >= self.room:
                return 0xA700
            self.received[uid] += 1
            return 0

    def opened(self, event: evt.Event) -> None:
        with self.lock:
            self.associations += 1
            self.most = max(self.most, self.associations)

    def closed(self, event: evt.Event) -> None:
        with self.lock:
            self.associations -= 1

    @contextmanager
    def listening(self) -> Iterator["Destination"]:
        ae = AE()
        ae.add_supported_context(CTImageStorage, ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(Verification)
        ae.maximum_associations = 10
        handlers = [
            (evt.EVT_C_STORE, self.store), (evt.EVT_ESTABLISHED, self.opened),
            (evt.EVT_RELEASED, self.closed), (evt.EVT_ABORTED, self.closed),
        ]  # fmt: skip
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()


def command(pacs: PacsProcess, *arguments: object) -> str:
    done = call_command("--config", pacs.config_file, *arguments, cwd=pacs.directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tally(database: Database, *columns: str) -> Counter[Any]:
    with database.connect() as connection:
        rows = connection.execute(select(*(delivery.c[name] for name in columns))).all()
    return Counter(tuple(row) for row in rows)


def let_leases_end(database: Database) -> None:
    """What a killed server had claimed is due a minute later, and what it asked asked again; let that be over.

    On SQLite leases do not matter: the next server knows that it is alone.
    """
    over = datetime.now(UTC) - timedelta(seconds=1)
    ends = over + timedelta(days=1) if database.is_sqlite else over
    with database.begin() as connection:
        connection.execute(update(task).where(task.c.state == "running").values(claimed_until=ends))
        asked = remote_state.c.probe_until.is_not(None)
        connection.execute(update(remote_state).where(asked).values(probe_until=over))


def is_alone(database: Database) -> bool:
    """Whether nobody else is connected: PostgreSQL finishes the statements of a killed client."""
    if database.is_sqlite:
        return True
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with database.connect() as connection:
        return connection.scalar(text(f"{others} AND backend_type = 'client backend'")) == 1


def all_over(database: Database) -> bool:
    with database.connect() as connection:
        return connection.scalar(select(task.c.id).where(IS_OPEN).limit(1)) is None


def wait_for_the_end(database: Database, what: str, seconds: float) -> None:
    """Wait until no task is open; a failure says which are, and what is known of the remotes."""
    try:
        wait_for(lambda: all_over(database), what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{what_is_open(database)}") from None


def what_is_open(database: Database) -> str:
    names = ("id", "target", "state", "due", "claimed_until", "deadline", "attempts", "lost_leases", "last_error")
    with database.connect() as connection:
        tasks = connection.execute(select(*(task.c[name] for name in names)).where(IS_OPEN).order_by(task.c.id)).all()
        remotes = connection.execute(select(remote_state)).all()
    lines = [f"at {datetime.now(UTC)}", *(str(row._asdict()) for row in remotes)]
    return "\n".join([*lines, f"{len(tasks)} tasks are open:", *(str(row._asdict()) for row in tasks)])


def test_a_night_with_a_crash_a_remote_that_is_down_and_one_that_is_full(database_url: str, tmp_path: Path) -> None:
    good, full, down = Destination(0), Destination(0, ROOM), Destination(free_port())
    with good.listening(), full.listening(), closing(Database(database_url)) as database:
        remotes = [
            {
                "ae_title": name,
                "host": "127.0.0.1",
                "port": each.port,
                "connect_timeout": 2,
                "max_associations": AT_ONCE,
            }
            for name, each in (("GOOD", good), ("FULL", full), ("DOWN", down))
        ]
        pacs = PacsProcess(tmp_path / "pacs", database_url, {"remote_aes": remotes, "forwarding": FORWARDING})
        studies = [make_study(1, EACH) for _ in range(STUDIES)]
        uids = {str(ds.SOPInstanceUID) for study in studies for ds in study}
        for number, ds in enumerate(ds for study in studies for ds in study):
            write_part10(ds, tmp_path / "media" / f"{number}.dcm")
        command(pacs, "import", tmp_path / "media")
        for name in ("GOOD", "FULL", "DOWN"):
            command(pacs, "remote", "send", name, *(study[0].StudyInstanceUID for study in studies))
        pacs.start()
        wait_for(lambda: len(good.received) >= STUDIES * EACH // 3, "a third of it", 60)
        pacs.kill()
        before = sum(good.received.values())
        assert before < STUDIES * EACH
        # Both sides notice that the server is gone.
        wait_for(lambda: is_alone(database), "the end of its connections", 60)
        wait_for(lambda: good.associations + full.associations == 0, "the end of its associations", 60)
        let_leases_end(database)
        with pacs:
            # Every instance arrives everywhere it can, and what is left is dead with the reason.
            wait_for_the_end(database, "the end of all tasks", 120)
            assert good.received.keys() == uids
            assert tally(database, "remote", "state") == {
                ("GOOD", "delivered"): STUDIES * EACH,
                ("FULL", "delivered"): ROOM,
                ("FULL", "dead"): STUDIES * EACH - ROOM,
                ("DOWN", "dead"): STUDIES * EACH,
            }
            # Nothing is twice in the tally. Little was sent twice: what was not noted when the server was killed.
            assert max(tally(database, "remote", "sop_instance_uid").values()) == 1
            assert sum(good.received.values()) - STUDIES * EACH <= AT_ONCE * MOST_LOST
            assert max(good.most, full.most) <= AT_ONCE
            for (remote, status, detail), count in tally(database, "remote", "status", "detail").items():
                if remote == "FULL" and status:
                    assert "A700" in detail
                if remote == "DOWN":
                    assert (status, "cannot connect" in detail) == (None, True), (detail, count)
            assert pacs.metric("pacs_deliveries") == 2 * STUDIES * EACH - ROOM
            # The morning after: the remote is there again, and somebody retries what was given up.
            with down.listening():
                command(pacs, "remote", "resume", "DOWN")
                command(pacs, "tasks", "retry", "--dead", "--target", "DOWN")
                # Otherwise the server looks within ten seconds.
                pacs.send_signal(signal.SIGHUP)
                wait_for_the_end(database, "the end of what was retried", 60)
            assert down.received == Counter(dict.fromkeys(uids, 1))
            assert down.most <= AT_ONCE
            shown = json.loads(command(pacs, "deliveries", "--json", "--limit", 1000))
            assert {(each["remote"], each["state"]) for each in shown} == {("FULL", "dead")}
        assert "internal error" not in pacs.log()
