"""Progress is for people: a bar on a terminal, which is gone at the end; elsewhere a line now and then, or nothing."""

import re
import sys

import pytest
from terminals import Terminal

from pacs_server.cli.progress import line_shown, progress_shown


def test_nothing_is_said_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_shown("files") as show:
        show("importing", 1, 10)
    assert capsys.readouterr() == ("", "")


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with progress_shown("files", lines=True, clock=lambda: now) as show:
        for done in range(1, 26):
            now += 1
            show("importing", done, 0)
    assert capsys.readouterr() == ("", "importing: 10 files\nimporting: 20 files\n")


@pytest.mark.parametrize(("done", "total", "told"), [(1, 0, "1 file"), (1, 1, "1 of 1 file"), (1, 2, "1 of 2 files")])
def test_one_is_no_plural(capsys: pytest.CaptureFixture[str], done: int, total: int, told: str) -> None:
    now = 0.0
    with progress_shown("files", lines=True, clock=lambda: now) as show:
        now = 20.0
        show("importing", done, total)
    assert capsys.readouterr().err == f"importing: {told}\n"


def test_how_it_stands_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A line every ten seconds at most, and once a minute if only the time has changed."""
    now = 0.0
    with line_shown(clock=lambda: now) as show:
        for second in range(100):
            now += 1
            show("1 of 3 sent" if second < 12 else "2 of 3 sent; OLD is busy", f", next try in {100 - second}s")
    assert capsys.readouterr() == (
        "", "1 of 3 sent, next try in 91s\n2 of 3 sent; OLD is busy, next try in 81s\n"
        "2 of 3 sent; OLD is busy, next try in 21s\n",
    )  # fmt: skip


def test_the_line_on_a_terminal_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "40")):
        monkeypatch.setenv(name, value)
    with line_shown() as show:
        show("0 of 3 [bold]sent", ", next try in 40s")
        show("1 of 3 sent", ", 2.0/s")
        show("2 of 3 sent " + 100 * "x", "")
    shown = re.sub(r"\x1b\[\?25[lh]", "", terminal.getvalue())
    assert "0 of 3 [bold]sent, next try in 40s\r\x1b[2K1 of 3 sent, 2.0/s\r\x1b[2K2 of 3 sent xx" in shown
    assert "x" * 30 not in shown, "it is one line"
    assert shown.endswith("\r\x1b[1A\x1b[2K")


def test_what_is_done_is_shown_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    with progress_shown("files") as show:
        show("reading [1.2]", 7, 0)
        show("writing", 3, 10)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "3 of 10 files" in shown
    # The last thing is that the line is taken away and the cursor is there again.
    assert shown.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_the_result_is_not_mixed_with_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_shown("files") as show:
        show("writing", 3, 10)
        print("a line of the result")
        print("a problem", file=sys.stderr)
    assert capsys.readouterr().out == "a line of the result\n"
    assert "a problem" in terminal.getvalue()
    assert "result" not in terminal.getvalue()
