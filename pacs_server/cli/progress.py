"""How far a command has got, on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from pacs_server.kit.words import counted

Show = Callable[[str, int, int], None]

# What has taken less is over before anybody wonders.
_SECONDS_BETWEEN_LINES = 10.0
# Where a line would only say again what the last one said, it comes so often.
_SECONDS_BETWEEN_SAME_LINES = 60.0


@contextmanager
def progress_shown(unit: str, *, lines: bool = False, clock: Callable[[], float] = time.monotonic) -> Iterator[Show]:
    """A function to call again and again with what is being done, how many are done, and of how many.

    A total of 0 says that nobody knows it. On a terminal the numbers are shown with a bar, which is gone at the end.
    Elsewhere, with `lines`, they are printed as a line every ten seconds, and nothing is printed without.
    """
    if not sys.stderr.isatty():
        yield _lines(unit, clock) if lines else lambda what, done, total: None
        return
    # Not at the top of the file: `--help` shall not wait for it.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counted]}"), TimeElapsedColumn())
    # Standard output may be a file that the command's result goes to.
    with Progress(
        *columns, console=Console(file=sys.stderr, soft_wrap=True), transient=True, redirect_stdout=False
    ) as progress:
        task = progress.add_task("", total=None, counted="")

        def show(what: str, done: int, total: int) -> None:
            progress.update(
                task, description=escape(what), completed=done, total=total or None, counted=_counted(done, total, unit)
            )

        yield show


@contextmanager
def line_shown(*, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str, str], None]]:
    """A function to call again and again with how it stands, and with what goes on changing by itself, such as a time.

    On a terminal both are one line that is renewed, and is gone at the end. Elsewhere a line is printed every ten
    seconds at most, and once a minute while nothing but the second text changes.
    """
    if not sys.stderr.isatty():
        yield _standing_lines(clock)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stderr)
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
        yield lambda text, changing: live.update(Text(text + changing, no_wrap=True, overflow="ellipsis"), refresh=True)


def _standing_lines(clock: Callable[[], float]) -> Callable[[str, str], None]:
    said, at = "", clock()

    def show(text: str, changing: str) -> None:
        nonlocal said, at
        now = clock()
        if now - at >= (_SECONDS_BETWEEN_SAME_LINES if text == said else _SECONDS_BETWEEN_LINES):
            said, at = text, now
            typer.echo(text + changing, err=True)

    return show


def _lines(unit: str, clock: Callable[[], float]) -> Show:
    due = clock() + _SECONDS_BETWEEN_LINES

    def show(what: str, done: int, total: int) -> None:
        nonlocal due
        now = clock()
        if now >= due:
            due = now + _SECONDS_BETWEEN_LINES
            typer.echo(f"{what}: {_counted(done, total, unit)}", err=True)

    return show


def _counted(done: int, total: int, unit: str) -> str:
    """`unit` is a plural with an s."""
    told = counted(total or done, unit.removesuffix("s"))
    return f"{done} of {told}" if total else told
