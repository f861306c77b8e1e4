"""Rows that a spreadsheet reads as text."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_server.kit.csv_rows import csv_row


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@A1", " =1", "\t=1", "\r\n=1"])
def test_no_cell_is_a_formula(cell: str) -> None:
    assert next(csv.reader(io.StringIO(csv_row([cell]), newline=""))) == [f"'{cell}"]


@pytest.mark.slow
@given(cells=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="=+-@\0"))))
def test_everything_else_is_as_it_was(cells: list[str]) -> None:
    plain = [f"x{cell}" for cell in cells]
    assert list(csv.reader(io.StringIO(csv_row(plain), newline=""))) == ([plain] if plain else [[]])
