"""The examples of the page about queries match as it says."""

import re
from collections.abc import Callable

import pytest

from pacs_server.dicom.matching import WILDCARD_VRS, matcher_for, matches

PAGE = "docs/query.md"


def _finds(key: str, name: str, *, fuzzy: bool = False) -> bool:
    matcher = matcher_for("PN", key, fuzzy=fuzzy)
    assert matcher is not None
    return matches(matcher, name, multiple=False, unknown=True)


def test_names(rows: Callable[..., list[list[str]]]) -> None:
    table = rows(PAGE, "Names")
    assert len(table) >= 4
    for key, found, not_found in table:
        text = key.strip("`")
        assert [name for name in re.findall("`([^`]+)`", found) if not _finds(text, name)] == [], key
        assert [name for name in re.findall("`([^`]+)`", not_found) if _finds(text, name)] == [], key


def test_fuzzy_names(document: Callable[[str], str]) -> None:
    assert "`anna mul` finds `Müller^Anna Maria`" in document(PAGE)
    assert _finds("anna mul", "Müller^Anna Maria", fuzzy=True)


def test_wild_card_vrs(document: Callable[[str], str]) -> None:
    assert f"for {', '.join(sorted(WILDCARD_VRS))} |" in document(PAGE)


@pytest.mark.parametrize(
    ("vr", "key", "value", "expected"),
    [
        ("TM", "10", "105959.5", True),
        ("TM", "10", "110000", False),
        ("DA", "20260101-20260131", "20260131", True),
        ("DA", "20260101-", "20251231", False),
        ("LO", "*ABDOMEN*", "CT abdomen", False),
        ("LO", "*ABDOMEN*", "CT ABDOMEN", True),
        ("SH", "A1", "", True),
        ("IS", "1", "01", False),
    ],
)
def test_sentences(vr: str, key: str, value: str, expected: bool) -> None:
    matcher = matcher_for(vr, key)
    assert matcher is not None
    assert matches(matcher, value, multiple=False, unknown=True) is expected
