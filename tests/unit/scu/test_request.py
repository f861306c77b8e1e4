"""Identifiers of requests to remotes, and the contexts by which instances are retrieved."""

from io import BytesIO

import pytest
from pynetdicom.dsutils import decode

from pacs_server.errors import InvalidIdentifier
from pacs_server.scu.request import EXPLICIT, IMPLICIT, SYNTAXES, data_set_of, encoded, tag_of, value_at
from pacs_server.scu.retrieving import GET, MOVE, Wanted, contexts_for

CT = "1.2.840.10008.5.1.4.1.1.2"


def test_keys_become_an_identifier_in_the_order_of_tags() -> None:
    data_set = data_set_of(
        {
            "StudyInstanceUID": "1.2\\1.3",
            "ScheduledProcedureStepSequence.Modality": "CT",
            "0008,0050": "A1",
            "ScheduledProcedureStepSequence.ScheduledStationAETitle": "",
            "PatientName": "Müller^Jörg=山田^太郎",
            "Rows": "512",
            "RequestedProcedureCodeSequence": "",
        }
    )
    assert list(data_set) == sorted(data_set)
    assert data_set["00400100"]["Value"] == [{"00080060": {"vr": "CS", "Value": ["CT"]}, "00400001": {"vr": "AE"}}]
    for syntax in SYNTAXES:
        found = decode(BytesIO(encoded(data_set, syntax)), syntax == IMPLICIT, True)
        assert found.StudyInstanceUID == ["1.2", "1.3"]
        assert found.PatientName == "Müller^Jörg=山田^太郎"
        assert (found.AccessionNumber, found.Rows, found.SpecificCharacterSet) == ("A1", 512, "ISO_IR 192")
        assert found.ScheduledProcedureStepSequence[0].Modality == "CT"
        assert list(found.RequestedProcedureCodeSequence) == []
    assert value_at(data_set, "ScheduledProcedureStepSequence.Modality") == "CT"
    assert value_at(data_set, "0020,000D") == "1.2\\1.3"
    assert value_at(data_set, "ReferencedStudySequence.StudyDate") == ""


@pytest.mark.parametrize("name", ["0008,0060", "(0008,0060)", "00080060", "Modality"])
def test_an_attribute_has_several_names(name: str) -> None:
    assert tag_of(name) == 0x00080060


@pytest.mark.parametrize("texts", [{"NoKey": ""}, {"": ""}, {"Rows": "many"}, {"0009,0010": "x"}, {"NoKey.Rows": "1"}])
def test_what_is_no_key_is_refused(texts: dict[str, str]) -> None:
    with pytest.raises(InvalidIdentifier):
        data_set_of(texts)


def test_a_group_has_so_many_private_blocks_and_no_more() -> None:
    # PS3.5 7.8.1: blocks are reserved by the elements 10 to FF.
    names = [f"ACME {number}:0019xx01" for number in range(0x100 - 0x10)]
    assert list(data_set_of(dict.fromkeys(names, "")))[0xFF - 0x10] == "001900FF"
    with pytest.raises(InvalidIdentifier, match="group 0019 has no block left"):
        data_set_of(dict.fromkeys([*names, "ONE TOO MANY:0019xx01"], ""))


def test_private_attributes_are_named_by_creator_wherever_their_block_is() -> None:
    names = ("SIEMENS MR HEADER:0019xx0C", "FDMS 1.0:0019xx40", "SIEMENS MR HEADER:0019xx0a", "ACME:0021xx01")
    data_set = data_set_of({names[0]: "1000", names[1]: "CT", **dict.fromkeys(names[2:], "")})
    assert list(data_set) == ["00190010", "00190011", "0019100A", "0019100C", "00191140", "00210010", "00211001"]
    assert [value_at(data_set, name) for name in names] == ["1000", "CT", "", ""]
    assert (data_set["0019100A"], data_set["00211001"]) == ({"vr": "US"}, {"vr": "UN"})
    moved = {"00190013": data_set["00190010"], "0019130C": data_set["0019100C"], "0019100C": {"vr": "IS", "Value": [5]}}
    assert value_at(moved, names[0]) == "1000"
    for syntax in SYNTAXES:
        assert decode(BytesIO(encoded(data_set, syntax)), syntax == IMPLICIT, True)[0x19, 0x100C].value == 1000
    for wrong in ({"ACME:0019xx0C": "1"}, {"ACME:0018xx0C": ""}, {f"{'A' * 65}:0019xx0C": ""}):
        with pytest.raises(InvalidIdentifier):
            data_set_of(wrong)


def test_requests_name_what_is_wanted() -> None:
    assert Wanted("1.2").keys() == {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}
    keys = Wanted("1.2", ("1.3",), ("1.4", "1.5")).keys()
    assert (keys["QueryRetrieveLevel"], keys["SeriesInstanceUID"]) == ("IMAGE", "1.3")
    assert keys["SOPInstanceUID"] == "1.4\\1.5"


@pytest.mark.parametrize("classes", [set(), {CT}, {f"1.2.{n}" for n in range(200)}])
def test_an_association_has_room_for_its_contexts(classes: set[str]) -> None:
    contexts = contexts_for(classes)
    assert [context.context_id for context in contexts] == list(range(1, 2 * len(contexts), 2))
    assert len(contexts) <= 128
    assert {context.abstract_syntax for context in contexts[:4]} == {*GET, *MOVE}
    assert all(context.transfer_syntaxes == (EXPLICIT, IMPLICIT) for context in contexts[:4])
    if classes == {CT}:
        assert contexts[4].transfer_syntaxes == (EXPLICIT, IMPLICIT)
        assert all(len(context.transfer_syntaxes) == 1 for context in contexts[5:])
        assert len(contexts) > 20
