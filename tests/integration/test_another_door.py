"""The services answer every door alike: a door that speaks JSON says what the DIMSE door says, from the same values.

The JSON door here is the least that tells: it stands for those that are not DIMSE.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import make_study
from pydicom.dataset import Dataset
from servers import CT, EXPLICIT, STUDY_FIND, associated, config, get, running, store
from strategies import encoded, identifier
from worklists import item, keys

from pacs_server.app.server import PacsServer
from pacs_server.config import WorklistConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import QueryOptions, RetrieveKeys, parse_find
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.worklist_query import parse_worklist
from pacs_server.services.query import Matches

WORKLIST_FIND = "1.2.840.10008.5.1.4.31"
IMPLICIT = "1.2.840.10008.1.2"
USER = Caller(Door.IMPORT, "192.0.2.9", user="ann")
# What the DIMSE door adds to every answer: character set, level, Retrieve AE Title and availability.
OF_DIMSE = ("00080005", "00080052", "00080054", "00080056")


def as_json(matches: Matches) -> list[dict[str, Any]]:
    """The rows in the DICOM JSON Model (PS3.18 F.2)."""
    return [
        {f"{c.tag:08X}": element(matches, c, text) for c, text in zip(matches.columns, row, strict=True)}
        for row in matches.rows
    ]


def element(matches: Matches, column: ReturnKey, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"vr": column.vr}
    if column.vr == "SQ":
        asked = {f"{key.tag:08X}" for key in column.items}
        items = matches.query.answered_items(column.tag, text)
        values: list[Any] = [{tag: item[tag] for tag in item if not asked or tag in asked} for item in items]
    elif column.vr == "PN":
        groups = ("Alphabetic", "Ideographic", "Phonetic")
        values = [dict(zip(groups, name.split("="), strict=False)) for name in text.split("\\") if name]
    else:
        number = int if column.vr in ("US", "IS") else str
        values = [number(value) for value in text.split("\\") if value]
    # As pydicom has it, sequences without items have a value.
    return found | ({"Value": values} if values or column.vr == "SQ" else {})


def of_dimse(pacs: PacsServer, query: Dataset, model: str) -> list[dict[str, Any]]:
    with associated(pacs, model, calling="VIEWER") as association:
        answers = [answer.to_json_dict() for _, answer in association.send_c_find(query, model) if answer is not None]
    return [{tag: value for tag, value in answer.items() if tag not in OF_DIMSE} for answer in answers]


def test_matches_of_a_query(serve: Callable[..., PacsServer]) -> None:
    pacs = serve()
    code, other = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTABD", "L", "Abdomen"
    other.CodeValue, other.CodingSchemeDesignator, other.CodeMeaning = "CTHEAD", "L", "Head"
    studies = [
        *make_study(1, 1, PatientName="Röntgen^Ää", SpecificCharacterSet="ISO_IR 192", StudyDescription="a"),
        *make_study(2, 4, PatientName="Doe^Jane", ProcedureCodeSequence=[code, other], AccessionNumber=""),
    ]
    assert set(store(pacs, *studies)) == {0}
    asked = Dataset()
    asked.CodeValue, asked.CodingSchemeDesignator = "CTABD", None
    # A sequence without items matches any key (PS3.4 C.2.2.1.2).
    for narrowed, count, codes in (
        ({}, 2, 2),
        ({"ProcedureCodeSequence": [asked]}, 2, 1),
        ({"PatientName": "doe*"}, 1, 2),
    ):
        query = identifier(
            "STUDY", PatientID="", StudyInstanceUID="", StudyDescription="", AccessionNumber="", ModalitiesInStudy="",
            NumberOfStudyRelatedInstances="", **{"PatientName": "", "ProcedureCodeSequence": [], **narrowed},
        )  # fmt: skip
        matches = pacs.archive.queries.find(
            parse_find(encoded(query), IMPLICIT, InformationModel.STUDY_ROOT, QueryOptions())
        )
        found = as_json(matches)
        assert found == of_dimse(pacs, query, STUDY_FIND)
        assert len(found) == count
        assert len(found[-1]["00081032"]["Value"]) == codes


@pytest.mark.parametrize("only_own_station", [False, True])
def test_worklist_items(tmp_path: Path, only_own_station: bool) -> None:
    settings = config(tmp_path).model_copy(update={"worklist": WorklistConfig(only_own_station=only_own_station)})
    with running(settings) as pacs:
        compare_worklist(pacs, expected=["A2"] if only_own_station else ["A1", "A2"])


def compare_worklist(pacs: PacsServer, *, expected: list[str]) -> None:
    own = {"ScheduledStationAETitle": "VIEWER", "ScheduledProcedureStepID": "SPS2"}
    pacs.archive.worklist.put([item(), item(own, AccessionNumber="A2")])
    query = keys(PatientName="", PatientID="", AccessionNumber="")
    parsed = parse_worklist(encoded(query), IMPLICIT)
    viewer = Caller(Door.DIMSE, "192.0.2.9", "VIEWER", "PACS")
    items = list(pacs.archive.worklist.find(parsed, viewer))
    answers = of_dimse(pacs, query, WORKLIST_FIND)
    assert [found.accession_number for found in items] == [answer["00080050"]["Value"][0] for answer in answers]
    assert [found.accession_number for found in items] == expected
    for found, answer in zip(items, answers, strict=True):
        for tag in ("00100010", "00100020", "00080050"):
            assert found.data_set.get(tag, {}).get("Value") == answer[tag].get("Value")
        # As items are shown, whatever the order said.
        assert found.step["00400020"]["Value"] == ["SCHEDULED"]
    # Who has no AE title has no station.
    assert list(pacs.archive.worklist.find(parsed, USER)) == (items if len(expected) > 1 else [])


def test_instances(serve: Callable[..., PacsServer]) -> None:
    pacs = serve()
    study = make_study(1, 3)
    assert set(store(pacs, *study)) == {0}
    retrieve = pacs.archive.retrieve
    selected = retrieve.select(RetrieveKeys(Level.STUDY, study_instance_uids=(str(study[0].StudyInstanceUID),)))
    _, sent = get(pacs, identifier("STUDY", StudyInstanceUID=study[0].StudyInstanceUID))
    assert len(sent) == 3
    for instance, (uid, data) in zip(selected, sent, strict=True):
        assert (instance.uids.sop, instance.sop_class_uid, instance.transfer_syntax_uid) == (uid, CT, EXPLICIT)
        with retrieve.open(instance) as source:
            assert b"".join(source.read(offset, 1000) for offset in range(0, source.size, 1000)) == data
