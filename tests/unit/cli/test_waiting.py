"""`remote send --wait` and `remote fetch --wait` say how far they are and why they wait; Ctrl-C ends nothing else."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datasets import make_study, write_part10
from terminals import Terminal

from pacs_server.app.assembly import OpenArchive, open_archive
from pacs_server.cli import waiting
from pacs_server.cli.find import caller
from pacs_server.cli.remote_asking import _fetched
from pacs_server.config.load import load
from pacs_server.index.deliveries import FORWARD
from pacs_server.index.task_values import Task
from pacs_server.index.tasks import Wanted
from pacs_server.services import breakers
from pacs_server.services.fetching import FETCH, Fetching

Run = Callable[..., tuple[int, str, str]]
Step = Callable[[OpenArchive], None]

_CONFIG = """
storage: {min_free_space: 0}
remote_aes:
  - {ae_title: OLD, host: 127.0.0.1, port: 104}
"""
_HOW = (
    "pacs-server: not waiting any more; task 1 goes on in the server. `pacs-server tasks show 1` shows how far, "
    "and `pacs-server tasks cancel 1` ends it.\n"
)


@pytest.fixture
def run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "pacs.yaml").write_text(_CONFIG)
    monkeypatch.setenv("PACS_SERVER_CONFIG", str(tmp_path / "pacs.yaml"))
    for number, ds in enumerate(make_study(1, 3, StudyInstanceUID="1.2.1")):
        write_part10(ds, tmp_path / "media" / str(number))
    assert run("import", "media")[0] == 0
    return run


@pytest.fixture
def archive(run: Run, tmp_path: Path) -> Iterator[OpenArchive]:
    """The archive as the server has it open, while a command waits."""
    with open_archive(load(tmp_path / "pacs.yaml", environ={}, overrides={})) as archive:
        yield archive


@pytest.fixture
def seconds(archive: OpenArchive, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What happens in the server in each second that a command waits; Ctrl-C comes after the last one."""
    steps: list[Step] = []

    def sleep(seconds: float) -> None:
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)(archive)

    monkeypatch.setattr(waiting.time, "sleep", sleep)
    monkeypatch.setattr(waiting, "_SHOW_SECONDS", 0.0)
    # A command learns within a second what another process has done to a remote.
    monkeypatch.setattr(breakers, "_KNOWN_SECONDS", -1.0)
    return steps


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a command has shown while it waited, each once."""
    lines: list[str] = []

    class Line:
        def __init__(self, **_: object) -> None: ...

        def __enter__(self) -> Callable[[str, str], None]:
            return lambda text, changing: lines.append(text + changing)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(waiting, "line_shown", Line)
    return lines


def claimed(archive: OpenArchive, kind: str) -> Task:
    (task,) = archive.tasks.claim(Wanted({kind: 1}))
    return task


def claim(archive: OpenArchive) -> None:
    claimed(archive, FORWARD)


def put_off(archive: OpenArchive) -> None:
    archive.tasks.postpone(claimed(archive, FORWARD), "OLD: it is busy\x1b", 39.9)


def fail(archive: OpenArchive) -> None:
    archive.tasks.retry(archive.tasks.find(1))  # type: ignore[arg-type]
    for _ in range(3):
        archive.breakers.failed("OLD", "OLD: cannot connect to 127.0.0.1 port 104: Connection refused")


def pause(archive: OpenArchive) -> None:
    archive.breakers.resume("OLD", caller())
    archive.breakers.pause("OLD", caller())


def resume_later(archive: OpenArchive) -> None:
    archive.breakers.resume("OLD", caller())


def end(archive: OpenArchive) -> None:
    archive.tasks.done(claimed(archive, FORWARD))


@pytest.mark.slow
def test_what_a_study_that_is_sent_waits_for(run: Run, seconds: list[Step], shown: list[str]) -> None:
    seconds += [put_off, fail, pause, resume_later, end]
    code, printed, _ = run("remote", "send", "OLD", "1.2.1", "--wait")
    assert (code, printed) == (0, "task 1: 3 instances of study 1.2.1 to OLD\ntask 1: delivered to OLD\n")
    assert shown == [
        "0 of 3 instances sent; waits for its turn",
        "0 of 3 instances sent; OLD: it is busy\\x1b, next try in 40s",
        "0 of 3 instances sent; OLD: cannot connect to 127.0.0.1 port 104: Connection refused, next try in 30s",
        f"0 of 3 instances sent; OLD is paused by {caller().user}",
        "0 of 3 instances sent; waits for its turn",
    ]


@pytest.mark.slow
def test_ctrl_c_says_how_it_goes_on(run: Run, seconds: list[Step], shown: list[str]) -> None:
    seconds += [claim]
    code, printed, error = run("remote", "send", "OLD", "1.2.1", "--wait")
    assert (code, error) == (130, _HOW)
    assert printed == "task 1: 3 instances of study 1.2.1 to OLD\n"
    assert shown[-1] == "0 of 3 instances sent"
    assert run("tasks", "list")[1].splitlines()[1].split("\t")[4] == "running"


@pytest.mark.slow
def test_a_server_that_is_not_there_is_asked_for(
    run: Run, seconds: list[Step], shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_BEGUN_WITHIN", -1.0)
    assert run("remote", "send", "OLD", "1.2.1", "--wait")[0] == 130
    asked = "0 of 3 instances sent; no server has begun with it; does it run? `pacs-server status` tells"
    assert shown == [asked]
    # One that has begun with it and has ended since is not there either.
    seconds += [lambda archive: archive.tasks.renew([claimed(archive, FORWARD)], -1.0) and None]
    run("remote", "send", "OLD", "1.2.1", "--wait")
    assert shown == [asked] * 3


@pytest.mark.slow
def test_how_far_a_fetch_is(run: Run, archive: OpenArchive, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = 0.0, iter([None, (0, 200), (50, 200), (150, 200), "OLD did not send all"])
    number = archive.fetching.fetch("OLD", Fetching("1.2.9"), "ann")
    task = claimed(archive, FETCH)
    waits = waiting.Waiting(archive, "OLD", _fetched, "here", lambda task: bool(task.attempts), clock=lambda: now)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += 10.0
        match next(steps):
            case here, expected:
                archive.tasks.progress(task, {"here": here, "expected": expected})
            case str(reason):
                archive.tasks.fail(task, reason)

    monkeypatch.setattr(waiting.time, "sleep", sleep)
    (ended,) = waits.until_over([number])
    assert (ended.state, ended.last_error) == ("ready", "OLD did not send all")
    assert shown == [
        "asking OLD what it has",
        "asking OLD what it has",
        "0 of 200 instances here",
        "50 of 200 instances here, 5.0/s",
        "150 of 200 instances here, 10.0/s",
    ]


@pytest.mark.slow
def test_the_line_on_a_terminal_does_not_touch_the_result(
    run: Run, seconds: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    seconds += [end]
    assert run("remote", "send", "OLD", "1.2.1", "--wait", "--json")[1].endswith("]\n")
    assert "waits for its turn" in terminal.getvalue()
