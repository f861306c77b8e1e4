"""Promise 1 as the kernel sees it with slots: one sync before a C-STORE is answered, the others in checkpoints."""

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from datasets import make_study
from processes import PacsProcess
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, association, store, store_from
from tracing import Call, Trace

TRACED = "fdatasync,fsync,syncfs,link,linkat,unlink,unlinkat,mkdir,mkdirat,sendmsg,sendto,openat,lstat,newfstatat"
INSTANCES = 3
STREAM = 200
SENDERS = 4
# So many empty slots are there between two checkpoints.
READY = 128
# A checkpoint comes after 0.25 s at the earliest, unless 256 instances wait for it.
CHECKPOINT_SECONDS = 0.25
CHECKPOINT = ["sync directory", "sync index", "retire", "sync incoming"]
RELAXED = "set_config('synchronous_commit', 'off', true)"
# A statement is sent once, with a name that is sent afterwards; strace writes the NUL after each as \0 or \000.
_NAMED = re.compile(r"(pacs_\d+\\0)(?:00)?[^\\]*" + re.escape(RELAXED))
_ON = re.compile(r"^\d+<(.*?)>(,|\)| <unfinished)")
_PATH = re.compile(r'"([^"]+)"')


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """A trace of the calls that matter, where strace is installed and may be used."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed; on Debian and Ubuntu: apt-get install strace")
    return Trace(strace, tmp_path / "trace", TRACED, shown=400)


class Step(NamedTuple):
    """What a call did to the file at `path`; `began` and `ended` are places in the trace."""

    thread: int
    what: str
    path: str
    began: int
    ended: int


def steps(trace: Trace, pacs: PacsProcess) -> list[Step]:
    """The steps of a server in the order in which they began. Calls that failed are left out."""
    found: list[Step] = []
    open_: dict[int, tuple[int, Call]] = {}
    sees = _Sees(pacs)
    for place, call in enumerate(trace.all()):
        began, first = open_.pop(call.thread, (place, call)) if call.resumed else (place, call)
        if call.text.endswith("<unfinished ...>"):
            open_[call.thread] = place, call
        elif (step := sees.what(first)) and "= -1 " not in call.text:
            found.append(Step(call.thread, *step, began, place))
    return sorted(found, key=lambda step: step.began)


class _Sees:
    """Knows what a call is for. Remembers which transactions of PostgreSQL do not wait for the disk."""

    def __init__(self, pacs: PacsProcess) -> None:
        self._archive = str(pacs.archive)
        self._port = f":{pacs.port}->"
        self._relaxed: set[str] = set()
        self._name_of_relaxed: dict[str, str] = {}

    def what(self, call: Call) -> tuple[str, str] | None:
        opened = found[1] if (found := _ON.match(call.text)) else ""
        if call.name in ("sendto", "sendmsg"):
            return self._sent(opened, call.text)
        if call.name in ("fsync", "fdatasync", "syncfs"):
            return self._synced(opened)
        path, *target = _PATH.findall(call.text) or [""]
        if not path.startswith(self._archive):
            return None
        if call.name.startswith("unlink"):
            return ("retire", path) if path.endswith(".part") else None
        if call.name.startswith("link"):
            # At its start the server tries in `incoming/` whether there are hard links.
            return None if "/incoming/" in target[0] else ("place", path)
        return ("make directory", path) if call.name.startswith("mkdir") else None

    def _sent(self, socket: str, text: str) -> tuple[str, str] | None:
        if self._port in socket:
            return "answer", ""
        if named := _NAMED.search(text):
            self._name_of_relaxed[socket] = named[1]
        name = self._name_of_relaxed.get(socket)
        if RELAXED in text or (name is not None and name in text):
            self._relaxed.add(socket)
        if '"Q' not in text or "COMMIT" not in text:
            return None
        relaxed = socket in self._relaxed
        self._relaxed.discard(socket)
        return ("commit" if relaxed else "sync index"), ""

    def _synced(self, path: str) -> tuple[str, str] | None:
        if path.endswith(".part"):
            return "sync slot", path
        if path == f"{self._archive}/incoming":
            return "sync incoming", path
        if "pacs.db" in path:
            return "sync index", path
        return ("sync directory", path) if path.startswith(self._archive) else None


def storing(everything: Sequence[Step]) -> dict[int, list[Step]]:
    """The steps of each thread that stored, from its first slot to its last answer to a C-STORE."""
    threads = {step.thread for step in everything if step.what == "sync slot"}
    return {thread: _while_storing([step for step in everything if step.thread == thread]) for thread in threads}


def _while_storing(mine: list[Step]) -> list[Step]:
    kinds = [step.what for step in mine]
    last = len(kinds) - 1 - kinds[::-1].index("place")
    return mine[kinds.index("sync slot") : kinds.index("answer", last) + 1]


def checkpoints(everything: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps of each checkpoint that retired slots, in any thread."""
    placed = {step.path for step in everything if step.what == "place"}
    begun: dict[int, list[Step]] = {}
    for step in everything:
        if step.what not in CHECKPOINT or (step.what == "retire" and step.path not in placed):
            continue
        begun.setdefault(step.thread, []).append(step)
        if step.what == "sync incoming":
            one = begun.pop(step.thread)
            if any(each.what == "retire" for each in one):
                yield one


def calls_of(trace: Trace, one: Sequence[Step]) -> Counter[str]:
    """The calls that name a file, from the first sync of a checkpoint on, without those about the index."""
    mine = [call for call in trace.all()[one[0].began : one[-1].ended] if call.thread == one[0].thread]
    return Counter(call.name for call in mine if "/archive/" in call.text and not call.resumed and '"/' in call.text)


def check(everything: Sequence[Step]) -> list[list[Step]]:
    """Every slot that was placed is retired by a checkpoint that made its name and its row durable before."""
    placed = {step.path: step for step in everything if step.what == "place"}
    taken = list(checkpoints(everything))
    retired = [step.path for one in taken for step in one if step.what == "retire"]
    assert sorted(retired) == sorted(placed)
    for one in taken:
        assert [what for what, _ in groupby(step.what for step in one)] == CHECKPOINT
        assert all(before.ended < after.began for before, after in pairwise(one))
        assert all(placed[step.path].ended < one[0].began for step in one if step.what == "retire")
    return taken


@pytest.mark.slow
def test_the_only_sync_before_the_answer_is_that_of_the_slot(trace: Trace, tmp_path: Path, database_url: str) -> None:
    instances = [Instance.of(ds) for ds in make_study(1, INSTANCES + 1)]
    with PacsProcess(tmp_path / "pacs", database_url, prefix=trace.prefix) as pacs:
        with association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
            for instance in instances:
                assert store(link, instance).status == 0
        pacs.stop()
        everything = steps(trace, pacs)

    [mine] = storing(everything).values()
    kinds = [step.what for step in mine]
    end = kinds.index("answer") + 1
    # Study and series are new: their directories are made, and not synced. A new connection commits its settings.
    first = [what for what in kinds[:end] if what not in ("commit", "sync index")]
    assert first == ["sync slot", "make directory", "make directory", "place", "answer"]
    commit = [] if database_url.startswith("sqlite") else ["commit"]
    assert kinds[end:] == ["sync slot", "place", *commit, "answer"] * INSTANCES
    assert check(everything)


@pytest.mark.slow
def test_a_stream_of_instances_is_one_sync_for_each(trace: Trace, tmp_path: Path) -> None:
    """What checkpoints add depends on the time and not on the number of instances."""
    instances = [Instance.of(ds) for ds in make_study(1, STREAM)]
    with PacsProcess(tmp_path / "pacs", prefix=trace.prefix) as pacs:
        began = time.monotonic()
        with association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
            statuses = [store(link, instance).status for instance in instances]
        seconds = time.monotonic() - began
        pacs.stop()
        everything = steps(trace, pacs)
    assert statuses == [0] * STREAM

    [mine] = storing(everything).values()
    counted = Counter(step.what for step in mine)
    assert [counted[what] for what in ("sync slot", "place", "answer")] == [STREAM] * 3
    assert (counted["sync directory"], counted["retire"]) == (0, 0)
    # New slots where the first ones did not last, and SQLite's write-ahead log copied into its file now and then.
    assert counted["sync incoming"] <= 2
    assert counted["sync index"] <= 4

    taken = check(everything)
    assert len(taken) <= seconds / CHECKPOINT_SECONDS + 2
    syncs = Counter(step.what for one in taken for step in one)
    assert syncs["sync incoming"] == len(taken)
    # Once in the life of the process the directories above are synced too.
    assert syncs["sync directory"] <= len(taken) + 2
    assert syncs["sync index"] <= len(taken) + 4
    # For each slot: is it still there? It is removed, and a new one is made. The rest is for directories.
    calls = sum((calls_of(trace, one) for one in taken), Counter[str]())
    assert calls["lstat"] + calls["newfstatat"] <= STREAM
    assert calls["unlink"] == STREAM
    assert calls["openat"] <= STREAM + READY + 2 * len(taken) + 2


@pytest.mark.slow
def test_senders_at_the_same_time_sync_a_slot_each(trace: Trace, tmp_path: Path, database_url: str) -> None:
    instances = [Instance.of(ds) for ds in make_study(SENDERS, INSTANCES)]
    with PacsProcess(tmp_path / "pacs", database_url, prefix=trace.prefix) as pacs:
        statuses = store_from(SENDERS, pacs.port, instances)
        pacs.stop()
        everything = steps(trace, pacs)
    assert statuses == [[0] * INSTANCES] * SENDERS

    answered = 0
    for mine in storing(everything).values():
        assert not [step for step in mine if step.what in ("sync directory", "retire")]
        # The other answers are those to associations and their ends.
        order = [step for step in mine if step.what in ("sync slot", "place", "answer")]
        for synced, placed, answer in zip(order, order[1:], order[2:], strict=False):
            if synced.what == "sync slot":
                assert (placed.what, placed.path, answer.what) == ("place", synced.path, "answer")
                assert synced.ended < placed.began
                answered += 1
    assert answered == len(instances)
    assert len({step.path for step in everything if step.what == "sync slot"}) == len(instances)
    assert check(everything)
