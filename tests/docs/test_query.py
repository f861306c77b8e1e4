"""The examples of the page about queries match as it says."""

import re
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from pacs_server.dicom.identifier import Query, QueryOptions, parse_find
from pacs_server.dicom.levels import InformationModel
from pacs_server.dicom.matching import WILDCARD_VRS, matcher_for, matches
from pacs_server.errors import InvalidIdentifier

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


def _study_query(*, relational: bool = False, **keys: str) -> Query:
    data_set = Dataset()
    for keyword, value in keys.items():
        setattr(data_set, keyword, value)
    data = encode(data_set, True, True)
    assert data is not None
    options = QueryOptions(relational=relational)
    return parse_find(data, "1.2.840.10008.1.2", InformationModel.STUDY_ROOT, options)


def test_refusal_on_the_page(document: Callable[[str], str]) -> None:
    with pytest.raises(InvalidIdentifier) as refused:
        _study_query(QueryRetrieveLevel="SERIES", Modality="CT")
    assert f"`{refused.value}`" in document(PAGE)


def test_keys_of_other_levels() -> None:
    series = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "1.2"}
    with pytest.raises(InvalidIdentifier):
        _study_query(**series, AccessionNumber="A1")
    with pytest.raises(InvalidIdentifier):
        _study_query(**series, relational=True, InstanceNumber="1")
    lenient = _study_query(**series, AccessionNumber="", InstanceNumber="")
    assert 0x00080050 in {key.tag for key in lenient.returns}
    assert lenient.unsupported == (0x00200013,)
    assert _study_query(QueryRetrieveLevel="SERIES", relational=True, AccessionNumber="A1").keys
