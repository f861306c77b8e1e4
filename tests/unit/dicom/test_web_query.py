from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_server.dicom.attributes import ATTRIBUTES, BY_KEYWORD
from pacs_server.dicom.identifier import MatchingKey
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.levels import Level
from pacs_server.dicom.matching import AnyOf, DateTimeSpan, FuzzyName, Items, PersonName, Span, Values, WildCard
from pacs_server.dicom.page import Order, Page
from pacs_server.dicom.web_query import Search, parse_search
from pacs_server.errors import InvalidIdentifier

BY_DATE_AND_NAME = (Order(BY_KEYWORD["StudyDate"], descending=True), Order(BY_KEYWORD["PatientName"]))
STUDY, SERIES, IMAGE = Level.STUDY, Level.SERIES, Level.IMAGE


def search(query: str | bytes = "", level: Level = STUDY, path: dict[Level, str] | None = None) -> Search:
    return parse_search(level, path or {}, query.encode() if isinstance(query, str) else query)


def keys(query: str, level: Level = STUDY) -> dict[str, object]:
    found = search(query, level)
    assert not any(key.unknown for key in found.query.keys)
    return {"/".join(a.keyword for a in key.attributes): key.matcher for key in found.query.keys}


def returned(found: Search) -> dict[str, ReturnKey]:
    assert [key.tag for key in found.query.returns] == sorted(key.tag for key in found.query.returns)
    return {ATTRIBUTES[key.tag].keyword: key for key in found.query.returns}


def day(date: str) -> Span:
    return Span("DA", date, date)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PatientID=P1", {"PatientID": Values(("P1",))}),
        ("00100020=P1", {"PatientID": Values(("P1",))}),
        ("PatientID=P1%20", {"PatientID": Values(("P1",))}),
        ("PatientID=a%2Cb,c", {"PatientID": Values(("a,b,c",))}),
        ("PatientID=a%5Cb", {"PatientID": Values(("a", "b"))}),
        ("PatientID=a&PatientID=b", {"PatientID": Values(("a", "b"))}),
        ("PatientID=", {}),
        ("PatientID=*", {}),
        ("AccessionNumber=A?1*", {"AccessionNumber": WildCard("A?1*")}),
        ("StudyInstanceUID=1.2,1.3%5C1.4", {"StudyInstanceUID": Values(("1.2", "1.3", "1.4"))}),
        ("ModalitiesInStudy=CT,MR", {"ModalitiesInStudy": Values(("CT", "MR"))}),
        ("StudyDate=20200101-20200131", {"StudyDate": Span("DA", "20200101", "20200131")}),
        ("StudyDate=20200101-", {"StudyDate": Span("DA", "20200101", "")}),
        ("StudyDate=20200101%5C20210101", {"StudyDate": AnyOf((day("20200101"), day("20210101")))}),
        ("PatientName=M%C3%BCller*", {"PatientName": PersonName(("muller*",))}),
        ("PatientName=Doe,+Jane", {"PatientName": PersonName(("doe, jane",))}),
        ("PatientName=doe%5Ejane&fuzzymatching=true", {"PatientName": FuzzyName(("doe", "jane"))}),
        ("PatientName=doe&fuzzymatching=FALSE", {"PatientName": PersonName(("doe",))}),
    ],
)  # fmt: skip
def test_keys_of_studies(query: str, expected: dict[str, object]) -> None:
    assert keys(query) == expected


def test_names_in_unencoded_utf8_are_read_too() -> None:
    assert keys("PatientName=Müller") == {"PatientName": PersonName(("muller",))}


def test_date_and_time_are_one_range() -> None:
    # PS3.4 C.2.2.2.5.4
    found = keys("StudyDate=20200101-20200102&StudyTime=10-12")
    assert list(found) == ["StudyDate/StudyTime"]
    assert isinstance(found["StudyDate/StudyTime"], DateTimeSpan)


def test_keys_inside_of_sequences() -> None:
    path = "RequestAttributesSequence.RequestedProcedureID"
    for query in (f"{path}=R1", "00400275.00401001=R1"):
        [(keyword, items)] = keys(query, SERIES).items()
        assert keyword == "RequestAttributesSequence"
        assert isinstance(items, Items)
        assert not items.unknown
        assert [(key.tag, key.matcher) for key in items.keys] == [(0x00401001, Values(("R1",)))]
    found = search(f"{path}=R1&RequestAttributesSequence.ScheduledProcedureStepID=S1", SERIES)
    [key] = found.query.keys
    assert isinstance(key.matcher, Items)
    assert len(key.matcher.keys) == 2
    assert found.query.texts[path] == "R1"


def test_numbers_are_compared_by_value() -> None:
    assert keys("Rows=0512&InstanceNumber=07", IMAGE) == {"Rows": Values(("512",)), "InstanceNumber": Values(("07",))}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("limit=-1", "limit: -1 is not an unsigned integer"),
        ("offset=%D9%A1", "offset: ? is not an unsigned integer"),
        ("limit=1&limit=2", "the parameter limit is given twice"),
        ("fuzzymatching=yes", "fuzzymatching is neither true nor false"),
        ("emptyvaluematching=1", "emptyvaluematching is neither true nor false"),
        ("StudyDate=2020-01-01", "StudyDate: no valid date, time or range"),
        ("StudyDate=20200102-20200101", "StudyDate: the range goes backwards"),
        ("includefield=Patient%20ID", "includefield: Patient ID is neither a tag nor a keyword"),
        ("orderby=Modality", "orderby: matches cannot be sorted by Modality"),
        ("orderby=foo", "orderby: matches cannot be sorted by foo"),
        ("PatientName=%FC", "a query parameter is not in UTF-8"),
        ("ProcedureCodeSequence=1", "(0008,1032) is a sequence"),
        ("&".join(f"a{n}=1" for n in range(1001)), "there are more than 1000 query parameters"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(query: str, sentence: str) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        search(query)
    assert str(caught.value).replace("ProcedureCodeSequence", "(0008,1032)") == sentence


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidIdentifier, match="Rows: x is no whole number"):
        search("Rows=x", IMAGE)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("PatientId=P1", "PatientId"),
        ("foo=1&%C3%A4%22=2", "foo, ??"),
        ("Modality=CT", "Modality"),
        ("00091001=1", "00091001"),
        ("NumberOfStudyRelatedSeries=3", "NumberOfStudyRelatedSeries"),
        ("TimezoneOffsetFromUTC=%2B0100", "TimezoneOffsetFromUTC"),
        ("PatientID.CodeValue=1", "PatientID.CodeValue"),
        ("includefield=NoSuchAttribute", "includefield=NoSuchAttribute"),
        ("&".join(f"a{n}=1" for n in range(12)), "a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 and 2 more"),
    ],
)
def test_what_is_not_supported_is_ignored_and_told(query: str, names: str) -> None:
    # PS3.18 8.3
    found = search(query)
    assert found.query.keys == ()
    assert found.warnings == (f"These parameters are not supported and were ignored: {names}",)


@pytest.mark.parametrize("query", ["", "accept=application/json", "includefield=00080060,RetrieveURL", "PatientID=P1"])
def test_what_clients_usually_send_needs_no_warning(query: str) -> None:
    assert search(query).warnings == ()


def test_optional_kinds_of_matching_are_told_to_be_missing() -> None:
    # PS3.18 8.3.4.5, 8.3.4.6
    found = search("emptyvaluematching=true&multiplevaluematching=true")
    assert [warning.split()[1] for warning in found.warnings] == ["emptyvaluematching", "multiplevaluematching"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", Page(newest_first=True)),
        ("limit=0&offset=3", Page(0, 3, newest_first=True)),
        ("limit=99999999999999999999", Page(10**15, newest_first=True)),
        ("orderby=-StudyDate,00100010", Page(orders=BY_DATE_AND_NAME, newest_first=True)),
    ],
)  # fmt: skip
def test_pages(query: str, expected: Page) -> None:
    assert search(query).page == expected


def test_what_lies_in_a_study_comes_as_it_arrived() -> None:
    found = search("limit=2", SERIES, {STUDY: "1.2"})
    assert found.page == Page(2)
    assert found.query.keys == (MatchingKey((BY_KEYWORD["StudyInstanceUID"],), Values(("1.2",)), unknown=False),)
    assert found.query.texts == {"StudyInstanceUID": "1.2"}


def test_the_path_and_a_parameter_both_count() -> None:
    found = search("StudyInstanceUID=1.3", SERIES, {STUDY: "1.2"})
    assert [key.matcher for key in found.query.keys] == [Values(("1.2",)), Values(("1.3",))]


# PS3.18 Tables 10.6.3-3 to 10.6.3-5, without what every match has.
REQUIRED = {
    STUDY: """
        StudyDate StudyTime AccessionNumber ModalitiesInStudy ReferringPhysicianName PatientName PatientID
        PatientBirthDate PatientSex StudyID NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances""",
    SERIES: """
        Modality SeriesDescription SeriesNumber NumberOfSeriesRelatedInstances PerformedProcedureStepStartDate
        PerformedProcedureStepStartTime RequestAttributesSequence""",
    IMAGE: "SOPClassUID SOPInstanceUID InstanceNumber Rows Columns BitsAllocated NumberOfFrames",
}


@pytest.mark.parametrize(
    ("level", "path", "levels"),
    [
        (STUDY, {}, {STUDY}),
        (SERIES, {}, {STUDY, SERIES}),
        (SERIES, {STUDY: "1"}, {SERIES}),
        (IMAGE, {}, {STUDY, SERIES, IMAGE}),
        (IMAGE, {STUDY: "1"}, {SERIES, IMAGE}),
        (IMAGE, {STUDY: "1", SERIES: "2"}, {IMAGE}),
    ],
)
def test_what_a_match_has(level: Level, path: dict[Level, str], levels: set[Level]) -> None:
    names = returned(search("", level, path)).keys()
    for each, required in REQUIRED.items():
        assert (
            set(required.split()) - {"StudyInstanceUID", "SeriesInstanceUID", "TimezoneOffsetFromUTC"} <= names
        ) == (each in levels), each
    # The identifiers are there in any case, because Retrieve URL is made of them.
    unique = [None, "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"][1 : level + 1]
    assert {*unique, "TimezoneOffsetFromUTC"} <= names


@pytest.mark.parametrize(
    ("query", "level", "more"),
    [
        ("includefield=PatientComments", STUDY, {"PatientComments"}),
        ("includefield=00104000,StudyDate&includefield=EthnicGroup", STUDY, {"PatientComments", "EthnicGroup"}),
        # PS3.18 10.6.3.3: attributes of lower levels are not returned.
        ("includefield=Modality,Rows", STUDY, set()),
        ("includefield=ProtocolName,Rows", SERIES, {"ProtocolName"}),
        ("PatientComments=x*", STUDY, {"PatientComments"}),
    ],
)
def test_what_a_match_has_besides(query: str, level: Level, more: set[str]) -> None:
    assert returned(search(query, level)).keys() - returned(search("", level)).keys() == more


def test_all_attributes_of_the_level() -> None:
    of_study = {keyword for keyword, a in BY_KEYWORD.items() if a.level <= STUDY}
    assert returned(search("includefield=all")).keys() == of_study
    of_series = {keyword for keyword, a in BY_KEYWORD.items() if a.level is SERIES}
    assert returned(search("includefield=all", SERIES, {STUDY: "1"})).keys() == (
        of_series | {"StudyInstanceUID", "TimezoneOffsetFromUTC"}
    )


def test_attributes_inside_of_sequences() -> None:
    def items(query: str) -> set[int]:
        return {key.tag for key in returned(search(query, SERIES))["RequestAttributesSequence"].items}

    assert items("") == {0x00400009, 0x00401001}
    assert items("includefield=RequestAttributesSequence.AccessionNumber") == {0x00400009, 0x00401001, 0x00080050}
    assert items("includefield=RequestAttributesSequence") == set()  # all of them
    assert items("includefield=all") == set()


NAMES = st.sampled_from([*BY_KEYWORD, "includefield", "limit", "orderby", "RequestAttributesSequence.CodeValue", "x"])


@given(
    st.lists(st.tuples(NAMES | st.text(), st.text("0123456789-*,.\\=^ aä") | st.text())), st.sampled_from([*Level][1:])
)
def test_anything_is_a_search_or_refused(parameters: list[tuple[str, str]], level: Level) -> None:
    query = "&".join(f"{quote(name, errors='replace')}={quote(value, errors='replace')}" for name, value in parameters)
    try:
        warnings = search(query, level).warnings
    except InvalidIdentifier as error:
        warnings = (str(error),)
    assert all(warning.isprintable() for warning in warnings)
