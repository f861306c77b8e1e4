"""One table for people and for scripts: nothing that stands in a cell can be lost, or steer a terminal."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminals import Terminal

from pacs_server.cli.tables import print_table
from pacs_server.kit.logs import escaped

UID = "1.2.826.0.1.3680043.8.498." + "7" * 38
TITLES = ("ID", "UID", "REASON")


def at_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, rows: list[tuple[str, ...]]) -> str:
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "stdout", terminal)
        print_table(TITLES, rows, wrapping=("REASON",))
    return terminal.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_columns_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = at_terminal(monkeypatch, 200, [("1", UID, "a"), ("2000", "1.2", "b [red]c[/red] :smile:")])
    lines = shown.splitlines()
    assert [line.index(word) for line, word in zip(lines, ("UID", UID, "1.2"), strict=True)] == [6, 6, 6]
    assert [line.rstrip()[len(UID) + 8 :] for line in lines] == ["REASON", "a", "b [red]c[/red] :smile:"]


@pytest.mark.parametrize("columns", [10, 40, 80, 100])
def test_a_uid_stays_whole_and_a_text_is_broken(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    words = "many words that do not fit into one line of this terminal"
    shown = at_terminal(monkeypatch, columns, [("1", UID, words), ("2", "1.2", "x" * 90)])
    assert UID in shown
    broken = " ".join(line[len(UID) + 6 :].strip() for line in shown.splitlines()[1:])
    assert broken.startswith(words + " x")
    assert shown.count("x") == 90
    assert max(map(len, shown.splitlines())) <= max(columns, len(UID) + 6 + 24)


def test_scripts_get_a_line_for_each_row_as_soon_as_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows():
        yield "1", UID, "a\tb"
        assert capsys.readouterr().out == f"ID\tUID\tREASON\n1\t{UID}\ta\\tb\n"
        yield "2", "", "\x1b[2J\n"

    print_table(TITLES, rows())
    assert capsys.readouterr().out == "2\t-\t\\x1b[2J\\n\n"


@given(cells=st.tuples(*[st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)] * 3))
def test_no_cell_reaches_a_terminal_as_it_is(cells: tuple[str, str, str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        shown = at_terminal(monkeypatch, 500, [cells])
    assert "\x1b" not in shown
    _, row = shown.splitlines()
    assert "".join(row.split()) == "".join("".join(escaped(cell) or "-" for cell in cells).split())
