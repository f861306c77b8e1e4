import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from strategies import encoded, identifier

from pacs_server.dicom.attributes import BY_KEYWORD
from pacs_server.dicom.identifier import (
    MatchingKey,
    Query,
    QueryOptions,
    RetrieveKeys,
    parse_find,
    parse_retrieve,
)
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.matching import AnyOf, DateTimeSpan, Items, PersonName, Span, Values, WildCard
from pacs_server.errors import InvalidIdentifier

PATIENT_ROOT, STUDY_ROOT = InformationModel.PATIENT_ROOT, InformationModel.STUDY_ROOT
RELATIONAL = QueryOptions(relational=True)
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def find(
    level: str,
    model: InformationModel = STUDY_ROOT,
    options: QueryOptions = QueryOptions(),  # noqa: B008
    **keys: object,
) -> Query:
    return parse_find(encoded(identifier(level, **keys)), ImplicitVRLittleEndian, model, options)


def retrieve(
    level: str,
    model: InformationModel = STUDY_ROOT,
    options: QueryOptions = QueryOptions(),  # noqa: B008
    **keys: object,
) -> RetrieveKeys:
    return parse_retrieve(encoded(identifier(level, **keys)), ImplicitVRLittleEndian, model, options)


def matchers(query: Query) -> dict[str, object]:
    return {"+".join(a.keyword for a in key.attributes): key.matcher for key in query.keys}


def returned(query: Query) -> list[str]:
    keywords = {attribute.tag: keyword for keyword, attribute in BY_KEYWORD.items()}
    return [keywords[key.tag] for key in query.returns]


@pytest.mark.parametrize("transfer_syntax_uid", SYNTAXES)
def test_a_query_is_decoded(transfer_syntax_uid: str) -> None:
    data_set = identifier(
        "STUDY", PatientName="Doe*", StudyDate="20200101-", ModalitiesInStudy="CT", StudyInstanceUID=["1.2", "1.3"],
        NumberOfStudyRelatedSeries="",
    )  # fmt: skip
    query = parse_find(encoded(data_set, transfer_syntax_uid), transfer_syntax_uid, STUDY_ROOT, QueryOptions())
    assert query.level is Level.STUDY
    assert matchers(query) == {
        "PatientName": PersonName(("doe*",)),
        "StudyDate": Span("DA", "20200101", ""),
        "ModalitiesInStudy": Values(("CT",)),
        "StudyInstanceUID": Values(("1.2", "1.3")),
    }
    assert returned(query) == [
        "StudyDate", "ModalitiesInStudy", "PatientName", "StudyInstanceUID", "NumberOfStudyRelatedSeries",
    ]  # fmt: skip
    assert query.unsupported == ()


def test_only_unique_keys_are_never_unknown() -> None:
    query = find("STUDY", PatientID="1", StudyInstanceUID="1.2", PatientName="X", StudyDate="20200101")
    assert {key.attributes[0].keyword: key.unknown for key in query.keys} == {
        "PatientID": False, "StudyInstanceUID": False, "PatientName": True, "StudyDate": True,
    }  # fmt: skip


def test_unknown_attributes_are_named_and_not_returned() -> None:
    query = find("STUDY", StudyDate="", InstitutionalDepartmentName="X", StudyStatusID="")
    assert query.unsupported == (0x00081040, 0x0032000A)
    assert returned(query) == ["StudyDate"]
    assert query.keys == ()


def test_counts_are_returned_but_not_matched() -> None:
    query = find("STUDY", NumberOfStudyRelatedInstances="5")
    assert query.unsupported == (0x00201208,)
    assert returned(query) == ["NumberOfStudyRelatedInstances"]
    assert query.keys == ()


def test_what_every_response_answers_is_no_key() -> None:
    query = find("STUDY", RetrieveAETitle="X", InstanceAvailability="ONLINE", SpecificCharacterSet="ISO_IR 100")
    assert query.unsupported == ()
    assert query.returns == ()
    assert query.keys == ()
    assert query.specific_character_set == "ISO_IR 100"


def test_private_attributes_and_group_lengths_are_ignored() -> None:
    data_set = identifier("STUDY")
    data_set.add_new(0x00090010, "LO", "CREATOR")
    data_set.add_new(0x00091001, "LO", "X")
    data = b"\x08\0\0\0\x04\0\0\0\x10\0\0\0" + encoded(data_set)
    query = parse_find(data, ImplicitVRLittleEndian, STUDY_ROOT, QueryOptions())
    assert (query.unsupported, query.returns) == ((), ())


def test_the_time_zone_is_returned_and_never_matched() -> None:
    query = find("STUDY", TimezoneOffsetFromUTC="+0100")
    assert (query.keys, returned(query)) == ((), ["TimezoneOffsetFromUTC"])
    query = find("PATIENT", PATIENT_ROOT, TimezoneOffsetFromUTC="+0100")
    assert (query.keys, query.returns, query.unsupported) == ((), (), ())
    assert returned(find("SERIES", StudyInstanceUID="1.2", TimezoneOffsetFromUTC="+0100"))[0] == "TimezoneOffsetFromUTC"


@pytest.mark.parametrize(
    ("charset", "raw", "name"),
    [
        ("ISO_IR 100", "Müller".encode("latin-1"), "muller"),
        ("ISO_IR 192", "Müller".encode(), "muller"),
        ("GB18030", "王".encode("gb18030"), "王"),
        ("\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B", "山田"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8", "김"),
        ("ISO_IR 13", "ﾔﾏﾀﾞ".encode("shift_jis"), "ヤマダ"),
    ],
)
def test_text_is_decoded_in_its_character_set(charset: str, raw: bytes, name: str) -> None:
    data_set = identifier("STUDY", SpecificCharacterSet=charset.split("\\"))
    data_set.add_new(0x00100010, "UN", raw)
    query = parse_find(encoded(data_set), ImplicitVRLittleEndian, STUDY_ROOT, QueryOptions())
    assert matchers(query) == {"PatientName": PersonName((name,))}


def test_binary_numbers_become_text() -> None:
    for syntax in SYNTAXES:
        data = encoded(
            identifier("IMAGE", Rows=512, Columns=[1, 2], StudyInstanceUID="1", SeriesInstanceUID="2"), syntax
        )
        query = parse_find(data, syntax, STUDY_ROOT, QueryOptions())
        assert matchers(query)["Rows"] == Values(("512",))
        assert matchers(query)["Columns"] == Values(("1", "2"))


def test_sequences_match_and_return_what_their_item_asks_for() -> None:
    code = Dataset()
    code.CodeValue = "X*"
    code.CodeMeaning = ""
    step = Dataset()
    step.ScheduledProcedureStepID = "7"
    step.RequestedProcedureID = ""
    step.ScheduledProtocolCodeSequence = Sequence([code])
    query = find("SERIES", StudyInstanceUID="1.2", RequestAttributesSequence=Sequence([step]))
    matcher = matchers(query)["RequestAttributesSequence"]
    assert isinstance(matcher, Items)
    assert {key.tag for key in matcher.keys} == {0x00400009, 0x00400008}
    nested = ReturnKey(0x00400008, "SQ", (ReturnKey(0x00080100, "SH"), ReturnKey(0x00080104, "LO")))
    assert query.returns[-1] == ReturnKey(
        0x00400275, "SQ", (nested, ReturnKey(0x00400009, "SH"), ReturnKey(0x00401001, "SH"))
    )


@pytest.mark.parametrize("items", [[], [Dataset()]])
def test_an_empty_sequence_key_matches_and_returns_everything(items: list[Dataset]) -> None:
    query = find("SERIES", StudyInstanceUID="1.2", RequestAttributesSequence=Sequence(items))
    assert set(matchers(query)) == {"StudyInstanceUID"}
    assert query.returns[-1] == ReturnKey(0x00400275, "SQ")


def test_date_and_time_ranges_are_combined_only_when_agreed() -> None:
    keys = {"StudyDate": "20060705-20060707", "StudyTime": "1000-1800"}
    assert set(matchers(find("STUDY", **keys))) == {"StudyDate", "StudyTime"}
    combined = find("STUDY", options=QueryOptions(combined_date_time=True), **keys)
    assert [type(key.matcher) for key in combined.keys] == [DateTimeSpan]
    assert returned(combined) == ["StudyDate", "StudyTime"]


def test_combined_ranges_may_cross_midnight() -> None:
    options = QueryOptions(combined_date_time=True)
    find("STUDY", options=options, StudyDate="20060705-20060706", StudyTime="2200-0600")
    for dates in ("20060705-20060705", "20060705"):
        with pytest.raises(InvalidIdentifier):
            find("STUDY", options=options, StudyDate=dates, StudyTime="2200-0600")


@pytest.mark.parametrize(("date", "time"), [("20060705-", "-1800"), ("20060705", "10-18"), ("20060705-", "10")])
def test_ranges_of_different_form_are_not_combined(date: str, time: str) -> None:
    query = find("STUDY", options=QueryOptions(combined_date_time=True), StudyDate=date, StudyTime=time)
    assert set(matchers(query)) == {"StudyDate", "StudyTime"}


def test_wild_cards_and_lists() -> None:
    query = find("STUDY", AccessionNumber="A?*", ModalitiesInStudy=["C*", "MR"], PatientID="%_")
    assert matchers(query) == {
        "AccessionNumber": WildCard("A?*"),
        "ModalitiesInStudy": AnyOf((WildCard("C*"), Values(("MR",)))),
        "PatientID": Values(("%_",)),
    }


@pytest.mark.parametrize(
    ("model", "level", "keys"),
    [
        (STUDY_ROOT, "", {}),
        (STUDY_ROOT, "INSTANCE", {}),
        (STUDY_ROOT, "PATIENT", {}),
        (STUDY_ROOT, "STUDY", {"Modality": "CT"}),
        (PATIENT_ROOT, "PATIENT", {"StudyDate": "20200101"}),
        (STUDY_ROOT, "SERIES", {}),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": ""}),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": "*"}),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": ["1.2", "1.3"]}),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": "1.2", "PatientName": "X"}),
        (STUDY_ROOT, "IMAGE", {"StudyInstanceUID": "1.2"}),
        (PATIENT_ROOT, "STUDY", {}),
        (PATIENT_ROOT, "STUDY", {"PatientID": "1*"}),
        (PATIENT_ROOT, "STUDY", {"PatientID": "1", "PatientName": "X"}),
        (STUDY_ROOT, "STUDY", {"StudyDate": "20200131-20200101"}),
        (STUDY_ROOT, "STUDY", {"StudyTime": "22-06"}),
        (STUDY_ROOT, "STUDY", {"ProcedureCodeSequence": Sequence([Dataset(), Dataset()])}),
    ],
)  # fmt: skip
def test_what_breaks_the_model_is_refused(model: InformationModel, level: str, keys: dict[str, object]) -> None:
    with pytest.raises(InvalidIdentifier) as refused:
        find(level, model, **keys)
    assert 0 < len(str(refused.value)) <= 64


def test_keys_of_other_levels_without_a_value_are_no_reason_to_refuse() -> None:
    below = find("STUDY", Modality="", StudyDate="")
    assert below.unsupported == (0x00080060,)
    assert [key.tag for key in below.returns] == [0x00080020]
    above = find("STUDY", PATIENT_ROOT, PatientID="1", PatientName="")
    assert not above.unsupported
    assert [key.tag for key in above.returns] == [0x00100010, 0x00100020]


def test_relational_queries_take_keys_of_any_level_above() -> None:
    query = find("IMAGE", PATIENT_ROOT, RELATIONAL, PatientName="X*", Modality="CT", StudyInstanceUID=["1", "2"])
    assert set(matchers(query)) == {"PatientName", "Modality", "StudyInstanceUID"}
    with pytest.raises(InvalidIdentifier):
        find("STUDY", PATIENT_ROOT, RELATIONAL, Modality="CT")


def test_unique_keys_above_the_level_match_and_return() -> None:
    query = find("SERIES", PATIENT_ROOT, PatientID="P", StudyInstanceUID="1.2", SeriesNumber="")
    assert matchers(query) == {"PatientID": Values(("P",)), "StudyInstanceUID": Values(("1.2",))}
    assert returned(query) == ["PatientID", "StudyInstanceUID", "SeriesNumber"]


def test_a_sequence_in_place_of_a_value_is_refused_and_the_other_way_round() -> None:
    for tag, vr, value in ((0x00100010, "SQ", Sequence([Dataset()])), (0x00081032, "LO", "X")):
        data_set = identifier("STUDY")
        data_set.add_new(tag, vr, value)
        with pytest.raises(InvalidIdentifier):
            parse_find(encoded(data_set, ExplicitVRLittleEndian), ExplicitVRLittleEndian, STUDY_ROOT, QueryOptions())


def test_a_character_set_is_judged_in_the_identifier_and_not_in_items_that_nobody_matches() -> None:
    item = Dataset()
    item.add_new(0x00080005, "SQ", Sequence())
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", "1.2"
    keys.add_new(0x00081032, "SQ", Sequence([item]))
    sent = encoded(keys, ExplicitVRLittleEndian)
    assert parse_retrieve(sent, ExplicitVRLittleEndian, STUDY_ROOT, QueryOptions()).study_instance_uids == ("1.2",)
    with pytest.raises(InvalidIdentifier):
        parse_retrieve(encoded(item, ExplicitVRLittleEndian) + sent, ExplicitVRLittleEndian, STUDY_ROOT, QueryOptions())


def test_retrieve_keys() -> None:
    assert retrieve("STUDY", StudyInstanceUID=["1.2", "1.3", "1.2"]) == RetrieveKeys(
        Level.STUDY, study_instance_uids=("1.2", "1.3")
    )
    assert retrieve("PATIENT", PATIENT_ROOT, PatientID="P") == RetrieveKeys(Level.PATIENT, ("P",))
    image = retrieve("IMAGE", StudyInstanceUID="1", SeriesInstanceUID="2", SOPInstanceUID=["3", "4"])
    assert image == RetrieveKeys(Level.IMAGE, (), ("1",), ("2",), ("3", "4"))


def test_other_keys_of_a_retrieve_are_ignored() -> None:
    keys = retrieve("STUDY", StudyInstanceUID="1.2", PatientID="P*", PatientName="X", SeriesInstanceUID="")
    assert keys == RetrieveKeys(Level.STUDY, study_instance_uids=("1.2",))


@pytest.mark.parametrize(
    ("model", "level", "keys"),
    [
        (STUDY_ROOT, "STUDY", {}),
        (STUDY_ROOT, "STUDY", {"StudyInstanceUID": ""}),
        (STUDY_ROOT, "STUDY", {"StudyInstanceUID": "*"}),
        (STUDY_ROOT, "STUDY", {"StudyInstanceUID": "1.2.*"}),
        (STUDY_ROOT, "STUDY", {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}),
        (STUDY_ROOT, "PATIENT", {"PatientID": "P"}),
        (STUDY_ROOT, "SERIES", {"SeriesInstanceUID": "1.3"}),
        (STUDY_ROOT, "SERIES", {"StudyInstanceUID": ["1", "2"], "SeriesInstanceUID": "1.3"}),
        (PATIENT_ROOT, "PATIENT", {"PatientID": "P*"}),
        (PATIENT_ROOT, "PATIENT", {"PatientID": ["P", "Q"]}),
        (PATIENT_ROOT, "STUDY", {"StudyInstanceUID": "1.2"}),
    ],
)
def test_what_does_not_name_entities_is_not_retrieved(
    model: InformationModel, level: str, keys: dict[str, object]
) -> None:
    with pytest.raises(InvalidIdentifier) as refused:
        retrieve(level, model, **keys)
    assert 0 < len(str(refused.value)) <= 64


def test_relational_retrieve_needs_no_keys_above() -> None:
    assert retrieve("IMAGE", PATIENT_ROOT, RELATIONAL, SOPInstanceUID="1.2") == RetrieveKeys(
        Level.IMAGE, sop_instance_uids=("1.2",)
    )
    with pytest.raises(InvalidIdentifier):
        retrieve("IMAGE", PATIENT_ROOT, RELATIONAL, SOPInstanceUID="")


@pytest.mark.slow
def test_an_identifier_that_inflates_without_end_is_refused() -> None:
    bomb = zlib.compressobj(wbits=-15)
    data = bomb.compress(b"\0" * 50_000_000) + bomb.flush()
    with pytest.raises(InvalidIdentifier):
        parse_find(data, DeflatedExplicitVRLittleEndian, STUDY_ROOT, QueryOptions())


SOUND = identifier("STUDY", PatientName="A*", StudyDate="20200101-", ProcedureCodeSequence=Sequence([Dataset()]))
SOUND_BYTES = [encoded(SOUND, syntax) for syntax in SYNTAXES]


@given(st.data())
def test_any_bytes_become_keys_or_are_refused(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.binary(max_size=200) | st.sampled_from(SOUND_BYTES)))
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    model = data.draw(st.sampled_from(InformationModel))
    options = QueryOptions(*data.draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    syntax = data.draw(st.sampled_from(SYNTAXES))
    found: Query | RetrieveKeys | InvalidIdentifier
    for parse in (parse_find, parse_retrieve):
        try:
            found = parse(bytes(raw), syntax, model, options)
        except InvalidIdentifier as error:
            found = error
        assert isinstance(found, Query | RetrieveKeys) or 0 < len(str(found)) <= 64


def test_deep_sequences_are_refused() -> None:
    inner = Dataset()
    inner.CodeValue = "X"
    for _ in range(60):
        outer = Dataset()
        outer.ProcedureCodeSequence = Sequence([inner])
        inner = outer
    with pytest.raises(InvalidIdentifier):
        find("STUDY", ProcedureCodeSequence=Sequence([inner]))


def test_a_key_knows_its_attributes() -> None:
    key = MatchingKey((BY_KEYWORD["ModalitiesInStudy"],), Values(("MR",)), unknown=True)
    assert key.matches("CT\\MR")
    assert not key.matches("CT")
    assert key.matches("")
