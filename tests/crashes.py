"""A server under parallel load that is killed at random moments, and what has to be true when it runs again."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import data_set_bytes, make_ct, uid
from processes import PacsProcess, run_command, wait_for
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, associate, retrieve, store, study_keys
from sqlalchemy import create_engine, text

from pacs_server.net.transport import AssociationEnded

SENDERS = 8
CT = (str(CTImageStorage), EXPLICIT)
ROWS = (8, 64, 256, 600)
LONGEST = 0.7
STARTING = (0.3, 1.5)
_LEVELS = ("patient", "study", "series", "instance")


@dataclass
class Sent:
    """What one sender knows of an instance: the digest that was acknowledged, and the one on its way at the kill."""

    instance: Instance
    acknowledged: str | None = None
    under_way: str | None = None


@dataclass
class CrashReport:
    """What the rounds came to; `recovered` is what the server counted."""

    rounds: int = 0
    acknowledged: int = 0
    repeated: int = 0
    replaced: int = 0
    recovered: Counter[str] = field(default_factory=Counter)


def crash_rounds(
    directory: Path,
    database_url: str | None = None,
    rounds: int = 5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> CrashReport:
    """Kill a server `rounds` times under load and check what it promised; an AssertionError says what was broken."""
    choices = random.Random(seed)
    pacs = PacsProcess(directory, database_url, {"storage": {"duplicate_policy": "replace"}} | dict(settings or {}))
    report = CrashReport()
    study = str(uid())
    senders = [_Sender(study, random.Random(choices.random()), report) for _ in range(SENDERS)]
    for number in range(rounds):
        if number % 2:
            # While it recovers, or before or after.
            pacs.start_and_kill(choices.uniform(*STARTING))
        pacs.start()
        try:
            check(pacs, senders)
            _count(pacs, report)
            _load_until_killed(pacs, senders, choices)
        except BaseException:
            if pacs.running():
                pacs.kill()
            raise
        report.rounds += 1
    with pacs:
        check(pacs, senders)
        _count(pacs, report)
        final, received = retrieve(pacs.port, [CT], study_keys(study))
        assert final.status == 0
        for sent in _acknowledged(senders):
            assert digest(received[sent.instance.sop_instance_uid]) == sent.acknowledged
        # Counters of every level, each file against its row, and no file without one.
        verified = run_command("verify", "--config", pacs.config_file, cwd=pacs.directory, timeout=600)
        assert verified.returncode == 0, verified.stdout
    # Not even a lock.
    assert list((pacs.archive / "incoming").iterdir()) == []
    return report


def _load_until_killed(pacs: PacsProcess, senders: "list[_Sender]", choices: random.Random) -> None:
    threads = [threading.Thread(target=sender.send, args=(pacs.port,)) for sender in senders]
    before = sum(sender.answers for sender in senders)
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: sum(sender.answers for sender in senders) > before + SENDERS, "a few acknowledged instances")
        time.sleep(choices.uniform(0, LONGEST))  # the moment of the kill is the point here
    finally:
        pacs.kill()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


class _Sender:
    """Sends new instances, some of them again, and other bytes under UIDs of its own."""

    def __init__(self, study: str, choices: random.Random, report: CrashReport) -> None:
        self.study = study
        self.series = str(uid())
        self.choices = choices
        self.report = report
        self.sent: list[Sent] = []
        self.answers = 0

    def send(self, port: int) -> None:
        """Send one after the other until the connection breaks."""
        try:
            link = associate(port, [CT])
        except (AssociationEnded, OSError):
            return
        try:
            while True:
                self._one(link)
        except (AssociationEnded, OSError):
            pass
        finally:
            link.transport.close()

    def _one(self, link: Any) -> None:
        known = self.choices.choice(self.sent) if self.sent and self.choices.random() < 0.3 else None
        again = known is not None and self.choices.random() < 0.5
        if known is None:
            known = Sent(self._instance(None))
            self.sent.append(known)
            instance = known.instance
        elif again:
            instance = known.instance
        else:
            instance = self._instance(known.instance.sop_instance_uid)
        known.under_way = digest(instance.data)
        assert store(link, instance).status == 0
        new = known.acknowledged is None
        known.instance, known.acknowledged, known.under_way = instance, known.under_way, None
        self.answers += 1
        self.report.acknowledged += new
        self.report.repeated += again
        self.report.replaced += not new and not again

    def _instance(self, sop: str | None) -> Instance:
        ds = make_ct(self.study, self.series, sop, rows=self.choices.choice(ROWS), columns=200)
        ds.PatientComments = str(self.choices.random())
        return Instance.of(ds)


def check(pacs: PacsProcess, senders: "list[_Sender]") -> None:
    """Everything acknowledged is indexed and byte-identical on disk, no row lacks its file, nothing half is left."""
    with _connected(pacs) as connection:
        selected = connection.execute(text("SELECT sop_instance_uid, path, digest FROM instance"))
        rows = {row[0]: (row[1], row[2]) for row in selected}
        counts = [connection.execute(text(f"SELECT count(*) FROM {name}")).scalar() for name in _LEVELS]
        keys = ("number_of_study_related_instances", "number_of_study_related_series")
        sums = [connection.execute(text(f"SELECT coalesce(sum({key}), 0) FROM study")).scalar() for key in keys]
    for sent in (sent for sender in senders for sent in sender.sent):
        found = rows.get(sent.instance.sop_instance_uid, ("", None))[1]
        assert sent.acknowledged is None or found in (sent.acknowledged, sent.under_way)
        # What is there now stays, whether its sender was told or not.
        sent.acknowledged, sent.under_way = found, None
    for path, expected in rows.values():
        assert digest(data_set_bytes(pacs.archive / path)[1]) == expected
    told = pacs.status()["counts"]
    assert [told[name] for name in ("patients", "studies", "series", "instances")] == counts
    assert sums == [counts[3], counts[2]]
    # Not even a lock, but for its own.
    assert [path for path in (pacs.archive / "incoming").iterdir() if f"-{pacs.pid}-r" not in path.name] == []
    assert pacs.incoming_files() == 0
    paths = {path for path, _ in rows.values()}
    for file in pacs.files():
        name = file.relative_to(pacs.archive)
        # What has no row is an older version of what has one, and of no later one.
        if name.as_posix() not in paths:
            current = rows[_uid_of(file)][0]
            assert _version(Path(current)) > _version(file), f"{name} has no row, {current} has"


def _acknowledged(senders: "list[_Sender]") -> list[Sent]:
    return [sent for sender in senders for sent in sender.sent if sent.acknowledged is not None]


def _uid_of(file: Path) -> str:
    return file.name.removesuffix(".dcm").partition(".v")[0]


def _version(file: Path) -> int:
    return int(file.name.removesuffix(".dcm").partition(".v")[2] or 1)


def _count(pacs: PacsProcess, report: CrashReport) -> None:
    for line in pacs.get("/metrics")[1].splitlines():
        if line.startswith("pacs_recovered_total{"):
            name, _, value = line.rpartition(" ")
            report.recovered[name.split('"')[1]] += int(float(value))


@contextmanager
def _connected(pacs: PacsProcess) -> Iterator[Any]:
    engine = create_engine(pacs.database_url or f"sqlite:///{pacs.directory / 'pacs.db'}")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
