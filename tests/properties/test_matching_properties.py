"""SQL with what Python finishes finds exactly what the pure definition says, on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlencode

import examples
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert
from strategies import (
    dates,
    encoded,
    identifier,
    person_names,
    ranges,
    sequences,
    several,
    text_values,
    times,
    uids,
)

from pacs_server.dicom.attributes import BY_KEYWORD, UNIQUE_KEYS, at_level
from pacs_server.dicom.identifier import MatchingKey, Query, QueryOptions, parse_find
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.matching import DateTimeSpan, ItemKey, Items, Matcher, matcher_for, span, time_key
from pacs_server.dicom.person_name import fold_name
from pacs_server.dicom.web_query import parse_search
from pacs_server.errors import InvalidIdentifier
from pacs_server.index.database import Database
from pacs_server.index.matching import condition_of
from pacs_server.index.models import NAME_MATCH, TABLES, TIME_MATCH
from pacs_server.index.queries import QueryIndex

IMPLICIT = "1.2.840.10008.1.2"
WILD = "%_*?/!ab\u00e4A"
STORED = {
    "AccessionNumber": text_values(),
    "PatientID": text_values(),
    "PatientComments": text_values("%_*?\\/ab \n"),
    "OtherPatientIDs": several(text_values()),
    "ModalitiesInStudy": several(st.sampled_from(["CT", "MR", "M", "C_", "C%", "CTX"])),
    "SOPClassesInStudy": several(uids()),
    "SOPClassUID": uids(),
    "AvailableTransferSyntaxUID": uids(),
    "PatientName": person_names(),
    "ReferringPhysicianName": person_names(),
    "PerformingPhysicianName": several(person_names()),
    "StudyDate": dates(),
    "StudyTime": times(),
    "SeriesTime": times(),
    "SeriesNumber": st.sampled_from(["", "1", "01", "+1", "2"]),
    "RequestAttributesSequence": sequences(),
}
KEYS = {
    "DA": ranges(dates()),
    "TM": ranges(times()),
    "UI": several(uids()),
    "PN": person_names() | st.text("ab*?\u00e4^= ", max_size=6),
    "CS": several(st.text("CTMR*?%_", min_size=1, max_size=3)),
}
TEXT_KEYS = text_values(WILD, 5) | several(text_values(WILD, 4)) | text_values()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield database
    database.close()


def row_of(level: Level, number: int, values: dict[str, str]) -> dict[str, object]:
    row: dict[str, object] = {"id": number}
    for attribute in at_level(level):
        # All rows of one statement have the same columns.
        row[attribute.column] = values.get(attribute.keyword, "")
    for name in NAME_MATCH + TIME_MATCH:
        if name in row:
            row[f"{name}_match"] = (fold_name if name in NAME_MATCH else time_key)(str(row[name]))
    return row


def fill(database: Database, stored: list[dict[str, str]]) -> None:
    """One patient with one study, series and instance for each of `stored`, numbered from 1."""
    rows: dict[Level, list[dict[str, object]]] = {level: [] for level in Level}
    for number, given_values in enumerate(stored, 1):
        unique = {name: f"1.2.{number}" for level, name in UNIQUE_KEYS.items() if level is not Level.PATIENT}
        values = {"IssuerOfPatientID": str(number)} | unique | given_values
        for level in Level:
            rows[level].append(row_of(level, number, values))
        rows[Level.STUDY][-1] |= {
            "patient_fk": number,
            "modalities_in_study": values.get("ModalitiesInStudy", ""),
            "sop_classes_in_study": values.get("SOPClassesInStudy", ""),
        }
        rows[Level.SERIES][-1] |= {"study_fk": number}
        rows[Level.IMAGE][-1] |= {
            "series_fk": number, "path": "x", "data_set_offset": 0, "size": 0, "digest": "",
            "received_at": datetime.now(UTC),
            "transfer_syntax_uid": values.get("AvailableTransferSyntaxUID", ""),
        }  # fmt: skip
    with database.begin() as connection:
        for level in reversed(Level):
            connection.execute(delete(TABLES[level]))
        for level in Level:
            connection.execute(insert(TABLES[level]), rows[level])


def found(database: Database, keys: list[MatchingKey]) -> set[int]:
    returns = (ReturnKey(BY_KEYWORD["SOPInstanceUID"].tag, "UI"),)
    options = QueryOptions(relational=True)
    query = Query(InformationModel.PATIENT_ROOT, Level.IMAGE, tuple(keys), returns, (), "", options)
    return {int(uid.rpartition(".")[2]) for (uid,) in QueryIndex(database).find(query)}


def matcher_or_none(vr: str, text: str, fuzzy: bool) -> Matcher | None:
    try:
        return matcher_for(vr, text, fuzzy=fuzzy)
    except InvalidIdentifier:
        return None


def check(database: Database, data: st.DataObject, keyword: str, stored: list[str], matchers: list[Matcher]) -> None:
    fill(database, [{keyword: value} for value in stored])
    for matcher in matchers:
        key = MatchingKey((BY_KEYWORD[keyword],), matcher, unknown=data.draw(st.booleans()))
        expected = {number for number, value in enumerate(stored, 1) if key.matches(value)}
        assert found(database, [key]) == expected, (matcher, stored)


def keys_like(stored: list[str]) -> st.SearchStrategy[str]:
    """Keys made of stored values, so that they find something: as they are, cut, or with a wild card in them."""

    def asking_for(value: str) -> st.SearchStrategy[str]:
        places = st.integers(0, len(value))
        # Of a name also one component group alone.
        groups = st.sampled_from(value.split("="))
        return st.one_of(
            st.just(value),
            places.map(lambda at: value[:at]),
            groups.map("{}^*".format),
            groups.map("{}*".format),
            places.map(lambda at: f"{value[:at]}*"),
            places.map(lambda at: f"*{value[at:]}"),
            places.map(lambda at: f"{value[:at]}?{value[at + 1 :]}"),
            st.tuples(places, places).map(lambda at: f"{value[: min(at)]}*{value[max(at) :]}"),
        )

    return st.sampled_from(stored).flatmap(asking_for)


@pytest.mark.slow
@pytest.mark.parametrize("keyword", [keyword for keyword in STORED if keyword != "RequestAttributesSequence"])
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
    max_examples=examples.of(25),
)
@given(data=st.data())
def test_sql_equals_the_pure_definition(keyword: str, database: Database, data: st.DataObject) -> None:
    vr = BY_KEYWORD[keyword].vr
    stored = data.draw(st.lists(STORED[keyword], min_size=1, max_size=8))
    keys = KEYS.get(vr, TEXT_KEYS) | STORED[keyword] | keys_like(stored)
    texts = data.draw(st.lists(keys, min_size=3, max_size=6))
    parsed = (matcher_or_none(vr, text, data.draw(st.booleans())) for text in texts)
    matchers = [matcher for matcher in parsed if matcher is not None]
    assume(matchers)
    check(database, data, keyword, stored, matchers)


ODD_NAMES = [
    "", "a", "ab", "a^", "a^b", "ab^c", "^b", "^^", "a=b", "ab=a", "=b", "==c", "a==c", "a=^b=c^", "a=b=c", "a=b=c=d",
    "=b=", "^=^", "a^b=c^d", "%", "_", "a%b", "a_b", "a/b", "\u00c4=\u6f22", "\u6f22^\u5b57", "a*", "a?b", "A^B",
    "b=a^x",
]  # fmt: skip
ODD_NAME_KEYS = [
    "a", "a*", "*a", "*a*", "?", "??", "a?b", "a^*", "a^b*", "^*", "^b", "*^b", "^^*", "a=b", "a=", "=b", "=*", "=^*",
    "*=b", "==c", "a==*", "*=*=c", "a=b=c=d", "=b*", "=?", "?=?", "*%*", "*_*", "a/*", "\u00e4", "\u6f22*", "*\u5b57",
    "c", "d",
]  # fmt: skip
ODD_DATES = [
    "", "20200131", "20200199", "20201301", "20200001", "20200100", "2020013", "202001310", "2020-01-31", "2020013x",
    "2020.01.31", "2020.13.01", "2020.01.99", "2020.0131", "202001.31", "2020..01.31", "20.20.0131", ".2020013", "2020",
    "\u0662\u0660200131", "19991231", "1999.12.31", "20210101", "2021.01.01", "2020 0131", "+2020131",
]  # fmt: skip
ODD_DATE_KEYS = ["20200131", "20200101-20200131", "20200101-", "-20200131", "19990101-20211231", "2020.01.31"]


@pytest.mark.parametrize(
    ("keyword", "stored", "keys"),
    [("PatientName", ODD_NAMES, ODD_NAME_KEYS), ("StudyDate", ODD_DATES, ODD_DATE_KEYS)],
    ids=["names", "dates"],
)
@pytest.mark.parametrize("unknown", [True, False])
def test_what_sql_decides_alone_equals_the_pure_definition(
    database: Database, keyword: str, stored: list[str], keys: list[str], unknown: bool
) -> None:
    fill(database, [{keyword: value} for value in stored])
    for text in keys:
        matcher = matcher_or_none(BY_KEYWORD[keyword].vr, text, False)
        if matcher is None:
            continue
        key = MatchingKey((BY_KEYWORD[keyword],), matcher, unknown)
        assert condition_of(key).exact
        expected = {number for number, value in enumerate(stored, 1) if key.matches(value)}
        assert found(database, [key]) == expected, text


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(25))
@given(data=st.data())
def test_sequences_equal_the_pure_definition(database: Database, data: st.DataObject) -> None:
    step, procedure = (data.draw(st.sampled_from(["A", "B*", "?", "%"])) for _ in range(2))
    keys = tuple(
        ItemKey(tag, False, matcher)
        for tag, text in ((0x00400009, step), (0x00401001, procedure))
        if (matcher := matcher_for("SH", text)) is not None
    )
    stored = data.draw(st.lists(STORED["RequestAttributesSequence"], min_size=1, max_size=8))
    check(database, data, "RequestAttributesSequence", stored, [Items(keys, unknown=data.draw(st.booleans()))])


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(25))
@given(
    stored=st.lists(st.tuples(dates(), times()), min_size=1, max_size=8),
    date=st.sampled_from(["20200126-20200203", "20200128-", "-20200203", "20200126-20200126"]),
    time=st.sampled_from(["10-22", "1030-1030", "22-10", "10-", "-10"]),
    unknown=st.booleans(),
)
def test_combined_date_and_time_equal_the_pure_definition(
    database: Database, stored: list[tuple[str, str]], date: str, time: str, unknown: bool
) -> None:
    attributes = (BY_KEYWORD["StudyDate"], BY_KEYWORD["StudyTime"])
    key = MatchingKey(attributes, DateTimeSpan(span("DA", date), span("TM", time)), unknown)
    fill(database, [{"StudyDate": day, "StudyTime": clock} for day, clock in stored])
    assert found(database, [key]) == {n for n, moment in enumerate(stored, 1) if key.matches(*moment)}


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(25))
@given(data=st.data())
def test_all_keys_have_to_match(database: Database, data: st.DataObject) -> None:
    keywords = ["PatientName", "StudyDate", "ModalitiesInStudy", "AccessionNumber", "SeriesTime"]
    stored = data.draw(st.lists(st.fixed_dictionaries({k: STORED[k] for k in keywords}), min_size=1, max_size=6))
    keys = []
    for keyword in keywords:
        attribute = BY_KEYWORD[keyword]
        matcher = matcher_or_none(attribute.vr, data.draw(KEYS.get(attribute.vr, TEXT_KEYS)), False)
        if matcher is not None:
            keys.append(MatchingKey((attribute,), matcher, unknown=True))
    fill(database, stored)
    expected = {
        number
        for number, values in enumerate(stored, 1)
        if all(key.matches(values[key.attributes[0].keyword]) for key in keys)
    }
    assert found(database, keys) == expected


SEARCHED = {
    "PatientName": person_names() | st.text("ab*?\u00e4^= ", max_size=6),
    "AccessionNumber": TEXT_KEYS,
    "OtherPatientIDs": TEXT_KEYS,
    "ModalitiesInStudy": KEYS["CS"],
    "SOPClassUID": KEYS["UI"],
    "StudyDate": KEYS["DA"],
    "StudyTime": KEYS["TM"],
}


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(50))
@given(data=st.data())
def test_a_search_of_qido_finds_what_c_find_finds_but_for_unknown_values(
    database: Database, data: st.DataObject
) -> None:
    stored = data.draw(st.lists(st.fixed_dictionaries({k: STORED[k] for k in SEARCHED}), min_size=1, max_size=8))
    fill(database, stored)
    for _ in range(4):
        keyword = data.draw(st.sampled_from(list(SEARCHED)))
        second = data.draw(st.sampled_from(["StudyTime", "StudyDate", "PatientName"]))
        keys = {each: data.draw(SEARCHED[each] | STORED[each]) for each in {keyword, second}}
        fuzzy = data.draw(st.booleans())
        asked = searched(keys, fuzzy)
        try:
            expected = found(database, list(c_find(keys, fuzzy).keys))
        except InvalidIdentifier:
            with pytest.raises(InvalidIdentifier):
                parse_search(Level.IMAGE, {}, asked)
            continue
        search = parse_search(Level.IMAGE, {}, asked)
        known = {n for n, values in enumerate(stored, 1) if all(is_known(k, values) for k in matched(search.query))}
        assert found(database, list(search.query.keys)) == expected & known, (asked, stored)


def searched(keys: dict[str, str], fuzzy: bool) -> bytes:
    return urlencode({**keys, "fuzzymatching": str(fuzzy).lower()}).encode()


def c_find(keys: dict[str, str], fuzzy: bool) -> Query:
    options = QueryOptions(relational=True, combined_date_time=True, fuzzy=fuzzy)
    data = encoded(identifier("IMAGE", SpecificCharacterSet="ISO_IR 192", **keys))
    return parse_find(data, IMPLICIT, InformationModel.STUDY_ROOT, options)


def matched(query: Query) -> list[str]:
    return [attribute.keyword for key in query.keys for attribute in key.attributes]


def is_known(keyword: str, values: dict[str, str]) -> bool:
    return bool(fold_name(values[keyword]) if keyword == "PatientName" else values[keyword])


@given(st.text())
def test_folding_a_name_again_changes_nothing(name: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)


@given(st.text("aÄ\u00df\u0301\u0130\uff1d\uff3c\u33c5\u1e9b\u0323^= \\", max_size=12))
def test_folding_an_odd_name_again_changes_nothing(name: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)


@given(person_names(), st.booleans())
def test_a_name_finds_itself(name: str, upper: bool) -> None:
    key = (name.upper() if upper else name).replace("?", "").replace("*", "")
    matcher = matcher_for("PN", key)
    assert matcher is None or MatchingKey((BY_KEYWORD["PatientName"],), matcher, unknown=True).matches(
        name.replace("?", "")
    )
