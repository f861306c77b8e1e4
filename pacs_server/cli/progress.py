"""How far a command has got, on standard error if that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_shown(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call again and again with what is being done, how many are done, and of how many.

    A total of 0 says that nobody knows it. On a terminal the numbers are shown with a bar, which is gone at the end.
    """
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    # Not at the top of the file: `--help` shall not wait for it.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counted]}"), TimeElapsedColumn())
    # Standard output may be a file that the command's result goes to.
    with Progress(*columns, console=Console(file=sys.stderr), transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("", total=None, counted="")

        def show(what: str, done: int, total: int) -> None:
            counted = f"{done} of {total} {unit}" if total else f"{done} {unit}"
            progress.update(task, description=escape(what), completed=done, total=total or None, counted=counted)

        yield show
