import json

import pytest

from pacs_server.dicom.json_model import element_text
from pacs_server.dicom.matching import (
    DateTimeSpan,
    ItemKey,
    Items,
    Values,
    date_key,
    date_time_key,
    matcher_for,
    matches,
    span,
    time_key,
)
from pacs_server.dicom.person_name import fold_name
from pacs_server.errors import InvalidIdentifier


def match(vr: str, key: str, value: str, *, multiple: bool = False, unknown: bool = True, fuzzy: bool = False) -> bool:
    matcher = matcher_for(vr, key, fuzzy=fuzzy)
    return matcher is None or matches(matcher, value, multiple=multiple, unknown=unknown)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("MÜLLER^Jörg", "muller^jorg"),
        ("Straße", "strasse"),
        ("SMITH ^ JOHN ^^^", "smith^john"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou=山田^太郎=やまだ^たろう"),
        ("=山田^太郎=", "=山田^太郎"),
        ("ガ^Й", "ガ^и"),
        ("\uff21\uff22\uff23", "abc"),
        ("한글", "한글"),
        ("A=B\\C^", "a=b\\c"),
        ("a\uff1db", "ab"),
        ("", ""),
    ],
)
def test_names_are_folded(text: str, folded: str) -> None:
    assert fold_name(text) == folded


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("10", "100000.000000"),
        ("1030", "103000.000000"),
        ("103015", "103015.000000"),
        ("103015.5", "103015.500000"),
        ("10:30:15", "103015.000000"),
        ("235960", "235960.000000"),
        ("24", ""),
        ("1", ""),
        ("1060", ""),
        ("103015.1234567", ""),
        ("", ""),
        ("\u0661\u0660", ""),
    ],
)
def test_times_have_a_first_instant(text: str, key: str) -> None:
    assert time_key(text) == key


def test_a_short_time_lasts_until_its_end() -> None:
    assert time_key("10", upper=True) == "105959.999999"
    assert time_key("103015.5", upper=True) == "103015.599999"


@pytest.mark.parametrize(
    ("text", "key"),
    [("20200229", "20200229"), ("2020.02.29", "20200229"), ("2020", ""), ("20201301", ""), ("2020.0229", "")],
)
def test_dates(text: str, key: str) -> None:
    assert date_key(text) == key


def test_date_times_are_padded_either_way() -> None:
    assert date_time_key("2020") == "20200101000000.000000"
    assert date_time_key("202002", upper=True) == "20200231235959.999999"
    assert date_time_key("2020021510.5") == ""
    assert date_time_key("20200215103015.5+0100") == "20200215103015.500000"


@pytest.mark.parametrize("key", ["", "*", "***", " * "])
@pytest.mark.parametrize("vr", ["PN", "LO", "UI", "DA", "TM", "IS"])
def test_universal_matching(vr: str, key: str) -> None:
    assert matcher_for(vr, key) is None


def test_single_values_are_literal_and_case_sensitive() -> None:
    assert match("LO", "CHEST", "CHEST")
    assert not match("LO", "CHEST", "Chest")
    assert not match("LO", "CHE", "CHEST")
    assert not match("IS", "1", "01")


def test_uids_come_in_lists_and_without_wild_cards() -> None:
    assert match("UI", "1.2\\1.3", "1.3")
    assert not match("UI", "1.2\\1.3", "1.4")
    assert not match("UI", "1.*", "1.4")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("CH*", "CHEST", True),
        ("CH*", "CH", True),
        ("CH?", "CH", False),
        ("C?E*T", "CHEST", True),
        ("*ES*", "CHEST", True),
        ("*ES", "CHEST", False),
        ("ch*", "CHEST", False),
        ("%*", "CHEST", False),
        ("_*", "CHEST", False),
        ("[C]*", "CHEST", False),
        ("*", "", True),
        ("A*B", "A\nB", True),
    ],
)
def test_wild_cards(key: str, value: str, expected: bool) -> None:
    assert match("LO", key, value) is expected


def test_hostile_wild_cards_stay_cheap() -> None:
    assert not match("LT", "*a" * 500 + "b", "a" * 5000)


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("Müller*", "Muller^X", True),
        ("Müller*", "MÜLLER^X", True),
        ("Müller*", "MUELLER^X", False),
        ("smith^john", "SMITH^JOHN^^", True),
        ("smith", "SMITH^JOHN", False),
        ("smith^*", "SMITH", True),
        ("smith^*", "SMITHSON", False),
        ("smith*^*", "SMITHSON", True),
        ("smith^j?hn", "Smith^John", True),
        ("山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("Yamada*=山*", "Yamada^Tarou=山田^太郎", True),
        ("Yamada*=川*", "Yamada^Tarou=山田^太郎", False),
        ("=山*", "Yamada^Tarou=山田^太郎", True),
        ("a*u", "a=u", False),
    ],
)
def test_person_names(key: str, name: str, expected: bool) -> None:
    assert match("PN", key, name) is expected


def test_fuzzy_names_match_starts_of_words_in_any_order() -> None:
    assert match("PN", "john smi", "Smith^John", fuzzy=True)
    assert match("PN", "SMITH^J*", "Smith^John", fuzzy=True)
    assert match("PN", "太", "Yamada^Tarou=山田^太郎", fuzzy=True)
    assert not match("PN", "mith", "Smith^John", fuzzy=True)
    assert matcher_for("PN", "^*", fuzzy=True) is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("20200101-20200131", "20200131", True),
        ("20200101 - 20200131", "20200101", True),
        ("20200101-20200131", "20200201", False),
        ("-20200131", "19000101", True),
        ("-20200131", "20200201", False),
        ("20200101-", "20200101", True),
        ("20200101-", "20191231", False),
        ("20200101", "2020.01.01", True),
        ("20200101", "20200102", False),
        ("20200101-20200131", "2020", False),
        ("20200101\\20200105-", "20200106", True),
    ],
)
def test_dates_match_by_meaning(key: str, value: str, expected: bool) -> None:
    assert match("DA", key, value) is expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("10", "100000", True),
        ("10", "105959.999999", True),
        ("10", "11", False),
        ("10-11", "1159", True),
        ("1030-", "1029", False),
        ("-1030", "103059", True),
        ("-1030", "1031", False),
        ("2230", "223000", True),
        ("10-11", "99", False),
    ],
)
def test_times_match_by_meaning(key: str, value: str, expected: bool) -> None:
    assert match("TM", key, value) is expected


@pytest.mark.parametrize("key", ["2020", "2020*", "x-y", "-", "20200131-20200101", "20200101-x", "1-2-3"])
def test_what_is_no_date_is_refused(key: str) -> None:
    with pytest.raises(InvalidIdentifier):
        matcher_for("DA", key)


def test_times_do_not_cross_midnight() -> None:
    with pytest.raises(InvalidIdentifier):
        matcher_for("TM", "22-06")


def test_date_and_time_combined() -> None:
    moments = DateTimeSpan(span("DA", "20060705-20060707"), span("TM", "1800-10"))
    assert moments.matches("20060705", "1800", unknown=True)
    assert not moments.matches("20060705", "1759", unknown=True)
    assert moments.matches("20060706", "0300", unknown=True)
    assert moments.matches("20060707", "105959", unknown=True)
    assert not moments.matches("20060707", "11", unknown=True)
    assert moments.matches("20060707", "", unknown=True)
    assert not moments.matches("20060707", "", unknown=False)
    assert not moments.matches("20060707", "rubbish", unknown=True)
    assert moments.matches("", "", unknown=True)
    assert not moments.matches("", "", unknown=False)


@pytest.mark.parametrize("vr", ["LO", "PN", "UI", "DA", "TM"])
@pytest.mark.parametrize("unknown", [True, False])
def test_unknown_values_match_as_told(vr: str, unknown: bool) -> None:
    key = {"DA": "20200101", "TM": "10"}.get(vr, "1.2")
    assert match(vr, key, "", unknown=unknown) is unknown


def test_one_of_several_stored_values_has_to_match() -> None:
    assert match("CS", "M*", "CT\\MR", multiple=True)
    assert match("CS", "MR\\US", "CT\\MR", multiple=True)
    assert not match("CS", "C*R", "CT\\MR", multiple=True)


def test_a_backslash_in_text_is_text() -> None:
    assert match("LT", "a\\b", "a\\b")
    assert not match("LT", "a\\b", "a")


def test_keys_are_limited() -> None:
    with pytest.raises(InvalidIdentifier):
        matcher_for("LO", "x" * 5000)
    with pytest.raises(InvalidIdentifier):
        matcher_for("UI", "\\".join(["1"] * 10_001))


def test_one_item_has_to_match_all_keys() -> None:
    items = [
        {"00400009": {"vr": "SH", "Value": ["A"]}, "00401001": {"vr": "SH", "Value": ["1"]}},
        {"00400009": {"vr": "SH", "Value": ["B"]}, "00401001": {"vr": "SH", "Value": ["2"]}},
    ]

    def found(step: str, procedure: str) -> bool:
        keys = (ItemKey(0x00400009, False, Values((step,))), ItemKey(0x00401001, False, Values((procedure,))))
        return matches(Items(keys, unknown=False), json.dumps(items), multiple=False, unknown=False)

    assert found("A", "1")
    assert found("B", "2")
    assert not found("A", "2")


def test_an_item_without_the_attribute_counts_as_unknown() -> None:
    for unknown in (True, False):
        key = Items((ItemKey(0x00400009, False, Values(("A",))),), unknown=unknown)
        assert matches(key, "[{}]", multiple=False, unknown=True) is unknown


def test_sequences_match_within_sequences() -> None:
    inner = Items((ItemKey(0x00080100, False, Values(("X",))),), unknown=False)
    key = Items((ItemKey(0x00321064, False, inner),), unknown=False)
    stored = [{"00321064": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["X"]}}]}}]
    assert matches(key, json.dumps(stored), multiple=False, unknown=False)
    assert not matches(key, '[{"00321064": {"vr": "SQ"}}]', multiple=False, unknown=False)


def test_text_of_json_elements() -> None:
    assert element_text({"vr": "PN", "Value": [{"Alphabetic": "A", "Phonetic": "C"}]}) == "A==C"
    assert element_text({"vr": "IS", "Value": [1, None, 3]}) == "1\\\\3"
    assert element_text({}) == ""
