"""`pacs-server remote send|status|pause|resume|retarget` and `deliveries`: what waits for whom, and why."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import make_study, write_part10

from pacs_server.cli import remote_sending

Run = Callable[..., tuple[int, str, str]]

_CONFIG = """
storage: {min_free_space: 0}
remote_aes:
  - {ae_title: WS1, host: 127.0.0.1, port: 104, priority: high}
  - {ae_title: WS2, host: 127.0.0.1, port: 104}
"""


@pytest.fixture
def run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "pacs.yaml").write_text(_CONFIG)
    monkeypatch.setenv("PACS_SERVER_CONFIG", str(tmp_path / "pacs.yaml"))
    for number, ds in enumerate(make_study(1, 3, StudyInstanceUID="1.2.1")):
        write_part10(ds, tmp_path / "media" / str(number))
    assert run("import", "media")[0] == 0
    return run


def listed(printed: str) -> list[list[str]]:
    return [line.split("\t") for line in printed.splitlines()[1:]]


@pytest.mark.slow
def test_a_study_is_to_be_sent_and_goes_elsewhere(run: Run) -> None:
    assert run("remote", "send", "WS1", "1.2.1") == (0, "task 1: 3 instances of study 1.2.1 to WS1\n", "")
    (row,) = listed(run("deliveries")[1])
    assert (row[:5], row[6:]) == (["1.2.1", "WS1", "-", "waiting", "3"], ["-", "-"])
    rows = listed(run("deliveries", "--study", "1.2.1", "--instances")[1])
    assert [(row[2], row[4]) for row in rows] == [("WS1", "waiting")] * 3
    assert json.loads(run("tasks", "show", 1, "--json")[1])["priority"] == "high"
    assert run("remote", "pause", "WS1") == (0, "WS1 is paused\n", "")
    assert [row[:2] + row[3:5] for row in listed(run("remote", "status")[1])] == [
        ["WS1", "paused", "3", "0"], ["WS2", "ready", "0", "0"]
    ]  # fmt: skip
    assert run("remote", "retarget", "WS1", "WS2", "--study", "1.2.1")[:2] == (0, "1 study for WS1 will go to WS2\n")
    assert run("remote", "resume", "WS1") == (0, "WS1 is used again\n", "")
    states = {each["name"]: each["waiting"] for each in json.loads(run("remote", "status", "--json")[1])}
    assert states == {"WS1": 0, "WS2": 3}
    found = json.loads(run("deliveries", "--state", "cancelled", "--json")[1])
    assert [(each["remote"], each["instances"], each["detail"]) for each in found] == [
        ("WS1", 3, "sent to WS2 instead")
    ]
    assert run("tasks", "cancel", 2)[0] == 0
    # Nobody waits for what is over.
    assert listed(run("deliveries")[1]) == []


@pytest.mark.slow
def test_waiting_ends_with_the_outcome(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(archive: object, name: str, forwarded: object) -> list[SimpleNamespace]:
        done = SimpleNamespace(id=1, state="done", target="WS1", last_error="")
        return [done, SimpleNamespace(id=2, state="dead", target="WS2", last_error="0xA900")]

    monkeypatch.setattr(remote_sending, "_ended", ended)
    code, printed, error = run("remote", "send", "WS1", "1.2.1", "--wait")
    assert (code, printed.splitlines()[1:]) == (1, ["task 1: delivered to WS1"])
    assert error == "pacs-server: task 2 is dead: 0xA900\n"
    assert isinstance(json.loads(run("remote", "send", "WS1", "1.2.1", "--wait", "--json")[1]), list)


@pytest.mark.slow
def test_what_is_refused(run: Run) -> None:
    for arguments, code, reason in (
        (("remote", "send", "WS9", "1.2.1"), 1, "WS9 is not in remote_aes"),
        (("remote", "send", "WS1", "1.2.99"), 1, "there is no study"),
        (("remote", "send", "WS1", "1.2.1", "1.2.1", "--series", "1.3"), 2, "about one study"),
        (("remote", "send", "WS1", "1.2.1", "--instance", "1.3"), 1, "nothing of that"),
        (("remote", "send", "WS1", "1.2.1", "--priority", "now"), 2, "none of urgent"),
        (("remote", "pause", "WS9"), 1, "WS9 is not in remote_aes"),
        (("remote", "retarget", "WS1", "WS1"), 1, "that remote itself"),
        (("deliveries", "--state", "lost"), 2, "none of waiting"),
    ):
        ended, printed, error = run(*arguments)
        assert (ended, printed) == (code, ""), (arguments, error)
        assert reason in error, arguments
