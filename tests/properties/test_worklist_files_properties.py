"""Worklist files: whatever they hold, no more than their one error."""

import io
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worklists import item_dataset

from pacs_server.errors import InvalidWorklistItem
from pacs_server.intake.worklist_fields import FIELDS
from pacs_server.intake.worklist_files import items_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["00100010", "00400100", "00080005", "vr", "Value"]), inner, max_size=3)
        | st.fixed_dictionaries(
            {"vr": st.sampled_from(["PN", "SQ", "LO", "US", "DA", "OB", "AT", "IS"]), "Value": inner}
        )
    ),
    max_leaves=8,
)


def take(data: bytes, suffix: str) -> None:
    with suppress(InvalidWorklistItem):
        items_of(data, suffix, "x")


@given(st.binary(), st.sampled_from([".wl", ".json", ".csv"]))
def test_any_bytes(data: bytes, suffix: str) -> None:
    take(data, suffix)


@given(st.data(), st.booleans())
def test_a_data_set_with_one_change(data: st.DataObject, implicit: bool) -> None:
    buffer = io.BytesIO()
    item_dataset().save_as(buffer, implicit_vr=implicit, little_endian=True)
    changed = bytearray(buffer.getvalue())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    take(bytes(changed), ".wl")


@given(JSON)
def test_any_json(document: object) -> None:
    take(json.dumps(document).encode(), ".json")


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["00100010", "00080060", "00400100", "00080050", "0020000D"]), JSON))
def test_an_item_with_other_attributes(changes: dict[str, object]) -> None:
    take(json.dumps(item_dataset().to_json_dict() | changes).encode(), ".json")


@given(st.lists(st.sampled_from(FIELDS), unique=True, min_size=1), st.lists(st.text(max_size=20), min_size=1))
def test_any_row(columns: list[str], values: list[str]) -> None:
    row = (values * len(columns))[: len(columns)]
    take(f"{','.join(columns)}\n{','.join(row)}\n".encode("utf-8", "replace"), ".csv")
