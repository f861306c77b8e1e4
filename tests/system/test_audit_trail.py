"""The audit trail of processes that are killed: what was acknowledged is there, and the chain holds."""

import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from audits import an_event
from processes import wait_for

from pacs_server.audit.trail import open_trail
from pacs_server.audit.verify import verify
from pacs_server.config import AuditConfig

# Four threads write; what was written durably is printed after that, one line at a time.
WRITER = """
import itertools, os, sys, threading
from pathlib import Path
from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.trail import open_trail
from pacs_server.config import AuditConfig

trail = open_trail(AuditConfig(directory=Path(sys.argv[1])))

def work(name):
    for number in itertools.count():
        detail = f"{sys.argv[2]}-{name}-{number}"
        durable = number % 3 > 0
        trail.write(Event(EventID.QUERY, Action.EXECUTE, (Participant("A" * 300),), detail=detail), durable=durable)
        if durable:
            os.write(1, f"{detail}\\n".encode())

threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
"""


def start(directory: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(directory), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def killed_somewhere(directory: Path, name: str, writers: int) -> set[str]:
    """Have processes write to the trail, kill them in the middle, and return what they acknowledged."""
    acknowledged: list[bytes] = []

    def collect(process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        acknowledged.extend(process.stdout)

    processes = [start(directory, f"{name}.{number}") for number in range(writers)]
    readers = [threading.Thread(target=collect, args=(process,)) for process in processes]
    try:
        for reader in readers:
            reader.start()
        enough = random.randint(20, 150)
        wait_for(lambda: len(acknowledged) >= enough, "acknowledged events", 60)
    finally:
        for process in processes:
            process.kill()
        for process, reader in zip(processes, readers, strict=True):
            reader.join(60)
            assert process.stdout is not None
            process.stdout.close()
            process.wait(60)
    # A line that was cut was no acknowledgement.
    return {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}


@pytest.mark.parametrize("writers", [1, 2])
def test_what_was_acknowledged_survives_kills(tmp_path: Path, writers: int) -> None:
    settings = AuditConfig(directory=tmp_path / "audit")
    acknowledged: set[str] = set()
    for number in range(5):
        acknowledged |= killed_somewhere(settings.directory, str(number), writers)
        with open_trail(settings) as trail:
            trail.write(an_event())
            kept = {record.event.detail for record, _ in trail.records_after(None)}
        assert acknowledged <= kept
        verify(settings)
    assert len(acknowledged) >= 100


def test_a_kill_at_any_byte_of_a_record(tmp_path: Path) -> None:
    whole = AuditConfig(directory=tmp_path / "whole")
    with open_trail(whole) as trail:
        trail.write(an_event())
        trail.write(an_event())
        # The head is written after a record was synced.
        head = (whole.directory / "head").read_bytes()
        trail.write(an_event("unfinished"))
    file = next(whole.directory.glob("audit-*"))
    content = file.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(content) + 1):
        settings = AuditConfig(directory=tmp_path / str(end))
        shutil.copytree(whole.directory, settings.directory)
        (settings.directory / file.name).write_bytes(content[:end])
        (settings.directory / "head").write_bytes(head)
        with open_trail(settings) as trail:
            trail.write(an_event("after"), durable=False)
            events = [record.event for record, _ in trail.records_after(None)]
        assert len(events) == (3 if end == last else 4), end
        assert events[-1] == an_event("after")
        assert verify(settings).records == len(events)


def test_the_cost_of_a_record(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed; on Debian and Ubuntu: apt-get install strace")
    script = """
import os, sys
from pathlib import Path
from pacs_server.audit.events import Action, Event, EventID
from pacs_server.audit.trail import open_trail
from pacs_server.config import AuditConfig
trail = open_trail(AuditConfig(directory=Path(sys.argv[1])))
event = Event(EventID.QUERY, Action.EXECUTE, ())
trail.write(event)
os.getppid()
for _ in range(10):
    trail.write(event)
os.getppid()
"""
    trace = tmp_path / "trace"
    command = [strace, "-o", str(trace), sys.executable, "-c", script, str(tmp_path / "audit")]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    if done.returncode and b"PTRACE" in done.stderr:
        pytest.skip("strace may not be used here")
    assert done.returncode == 0, done.stderr
    calls = re.findall(r"^(\w+)\(", trace.read_text().split("getppid()")[1], re.MULTILINE)
    once = ["flock", "newfstatat", "write", "flock", "fdatasync", "pwrite64"]
    assert ["newfstatat" if name == "fstat" else name for name in calls] == once * 10
