"""Rows of CSV whose cells come from peers: no spreadsheet takes one of them for a formula."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Final

# Spreadsheets take a cell that begins like this for a formula.
_FORMULA: Final = re.compile(r"\s*[=+\-@\t\r\n]")


def csv_row(cells: Iterable[str]) -> str:
    """One row with its line end; a cell that a spreadsheet would take for a formula gets an apostrophe in front."""
    text = io.StringIO()
    csv.writer(text).writerow([f"'{cell}" if _FORMULA.match(cell) else cell for cell in cells])
    return text.getvalue()
