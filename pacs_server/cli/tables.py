"""The one look of all lists: aligned columns for people at a terminal, tab-separated lines for scripts.

The tab-separated lines are an interface that scripts parse: a header, then one line for each row.
"""

import sys
from collections.abc import Iterable, Sequence

import typer

Cells = Sequence[str]

_GAP = "  "
# No column of text is made narrower than this.
_WRAPPED_WIDTH = 24


def print_table(titles: Cells, rows: Iterable[Cells], *, wrapping: Cells = ()) -> None:
    """Print a table with a row of titles; cells may hold anything, and an empty one is shown as `-`.

    On a terminal only the columns of the titles `wrapping` may be broken into several lines; all others stay whole, so
    that their values can be copied. Elsewhere each row is printed as soon as it is known.
    """
    from pacs_server.kit.logs import escaped

    escaped_rows = ([escaped(cell) or "-" for cell in row] for row in rows)
    if sys.stdout.isatty():
        _print_on_terminal(titles, escaped_rows, wrapping)
        return
    typer.echo("\t".join(titles))
    for row in escaped_rows:
        typer.echo("\t".join(row))


def _print_on_terminal(titles: Cells, rows: Iterable[Cells], wrapping: Cells) -> None:
    # Not at the top of the file: `--help` shall not wait for it.
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    widths = [cell_len(title + _GAP) for title in titles]
    for title in titles:
        table.add_column(Text(title), no_wrap=title not in wrapping, overflow="fold")
    for row in rows:
        # As Text: square brackets in a cell are no markup.
        table.add_row(*map(Text, row))
        widths = [max(width, cell_len(cell + _GAP)) for width, cell in zip(widths, row, strict=True)]
    needed = sum(
        min(width, _WRAPPED_WIDTH) if title in wrapping else width for title, width in zip(titles, widths, strict=True)
    )
    # A table wider than the terminal is better than a UID without its end.
    Console(file=sys.stdout, width=max(Console(file=sys.stdout).width, needed)).print(table)
