"""HL7: splitting, escapes, character sets, acknowledgments, and the map from order to worklist item."""

import re
from datetime import datetime
from pathlib import Path

import hl7 as peer
import orders
import pytest

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.worklist import WorklistItem
from pacs_server.errors import InvalidWorklistItem
from pacs_server.hl7 import order_map as hl7_orders
from pacs_server.hl7.message import ErrorCondition, InvalidMessage, Separators, acknowledgment, escape, parse, unescape
from pacs_server.hl7.order_map import CancellationKey, Order, OrderAction, order_of

PAGE = Path(__file__).parents[3] / "docs" / "workflow.md"
NOW = datetime(2026, 1, 5, 8, 0, 1)
TAGS = {
    "PatientName": "00100010", "PatientID": "00100020", "IssuerOfPatientID": "00100021", "PatientBirthDate": "00100030",
    "PatientSex": "00100040", "Allergies": "00102110", "PregnancyStatus": "001021C0", "Referring": "00080090",
    "Requesting": "00321032", "RequestedProcedureDescription": "00321060", "Priority": "00401003",
    "Reason": "00401002", "Transport": "00401004", "AdmissionID": "00380010", "Location": "00380300",
    "Placer": "00402016", "Filler": "00402017",
}  # fmt: skip


def taken(text: str, encoding: str = "latin_1") -> Order:
    return order_of(parse(orders.wire(text, encoding)))


def single(text: str) -> WorklistItem:
    (item,) = taken(text).items
    return item


def whole(item: WorklistItem) -> dict[str, str]:
    return {name: text_of(item.data_set, tag) for name, tag in TAGS.items()}


def step(item: WorklistItem) -> list[str]:
    tags = ("00080060", "00400001", "00400002", "00400003", "00400006", "00400007", "00400009")
    return [text_of(item.step, tag) for tag in tags]


def problem(text: str, encoding: str = "latin_1") -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        taken(text, encoding)
    return caught.value


# ------------------------------------------------------------------------------------ messages


def test_fields_are_those_that_another_parser_finds() -> None:
    ours, theirs = parse(orders.wire(orders.ORDER)), peer.parse(orders.wire(orders.ORDER).decode("latin_1"))
    assert ours.control_id == str(theirs["MSH.F10"])
    assert [segment.name for segment in ours.segments] == [str(segment[0]) for segment in theirs][1:]
    for place in ("PID.F3.R1.C4.S2", "PID.F5.R1.C5", "OBR.F4.R1.C6", "OBR.F34.R1.C1.S3", "ZDS.F1.R1.C4"):
        name, number, _, component, *more = place.split(".")
        subcomponent = int(more[0][1:]) if more else 1
        found = ours.first(name).get(int(number[1:]), int(component[1:]), subcomponent)
        assert found == str(theirs[place])
        assert found


def test_escapes() -> None:
    text = r"a\F\b\S\c\T\d\R\e\E\f\X0D0a\g\.br\h\H\i\N\\C2842\\X\j"
    assert unescape(text, Separators(), "ascii") == "a|b^c&d~e\\f\r\ng\nhij"
    assert escape("a|b^c&d~e\\f\r", Separators()) == r"a\F\b\S\c\T\d\R\e\E\f\X0D\ ".rstrip()


def test_own_separators() -> None:
    message = parse(b"MSH#*!?%#A#B#C#D###ORM*O01#M7#P#2.3\rPID###1*2!3#?F?\r")
    assert message.kind == "ORM^O01"
    assert message.control_id == "M7"
    assert [message.first("PID").part(one, 1) for one in message.first("PID").repetitions(3)] == ["1", "3"]
    assert message.first("PID").get(4) == "#"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_ends_of_lines(end: str) -> None:
    assert parse(orders.ORDER.replace("\n", end).encode("latin_1")).first("ZDS").get(1) == "1.2.3.4"


@pytest.mark.parametrize(
    ("name", "encoding", "family"),
    [
        ("", "ascii", "Meyer"),
        ("", "utf-8", "Müller"),
        ("", "latin_1", "Müller"),
        ("UNICODE UTF-8", "utf-8", "山田"),
        ("8859/1", "latin_1", "Müller"),
        ("8859/2", "iso8859_2", "Čapek"),
        ("8859/5", "iso8859_5", "Петров"),
        ("8859/7", "iso8859_7", "Ωμέγα"),
        ("8859/15", "iso8859_15", "Œuvre"),
        ("GB 18030-2000", "gb18030", "王"),
        ("KS X 1001", "euc_kr", "김"),
        ("BIG-5", "big5", "許功蓋"),  # in Big5 the second halves of these are separators
        ("ASCII~ISO IR87", "ascii", "Meyer"),
    ],
)
def test_character_sets(name: str, encoding: str, family: str) -> None:
    text = orders.ORDER.replace("8859/1", name).replace("Müller", family)
    (item,) = order_of(parse(orders.wire(text, encoding))).items
    assert text_of(item.data_set, TAGS["PatientName"]).partition("^")[0] == family


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"", ErrorCondition.SEGMENT_SEQUENCE),
        (b"PID|1", ErrorCondition.SEGMENT_SEQUENCE),
        (b"MSH", ErrorCondition.SEGMENT_SEQUENCE),
        (b"MSH|", ErrorCondition.SEGMENT_SEQUENCE),
        (b"MSH|^^\\&|", ErrorCondition.DATA_TYPE),
        (b"MSH|^~\\&|" + b"|" * 15 + b"UNICODE UTF-16|", ErrorCondition.TABLE_VALUE),
        (b"MSH|^~\\&|" + b"|" * 15 + b"UNICODE UTF-8|\rPID|\xff", ErrorCondition.DATA_TYPE),
    ],
)
def test_what_is_no_message(data: bytes, condition: ErrorCondition) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse(data)
    assert caught.value.condition == condition


# ------------------------------------------------------------------------------------ orders


def test_an_order() -> None:
    item = single(orders.ORDER)
    assert item.identity == ("A1", "RP1", "SPS1")
    assert (item.study_instance_uid, item.generated, item.source) == ("1.2.3.4", False, "hl7")
    assert whole(item) == {
        "PatientName": "Müller^Anna^^Dr^Jr", "PatientID": "P1", "IssuerOfPatientID": "HOSP",
        "PatientBirthDate": "19700101", "PatientSex": "F", "Allergies": "Penicillin", "PregnancyStatus": "3",
        "Referring": "Semmelweis^Ignaz", "Requesting": "Pasteur^Louis", "RequestedProcedureDescription": "CT thorax",
        "Priority": "STAT", "Reason": "Cough", "Transport": "WALK", "AdmissionID": "ADM1", "Location": "W3",
        "Placer": "PL1", "Filler": "FI1",
    }  # fmt: skip
    assert step(item) == ["CT", "CT1", "20260105", "093000", "Curie^Marie", "Thorax native", "SPS1"]
    (code,) = item.data_set["00321064"]["Value"]
    assert [text_of(code, tag) for tag in ("00080100", "00080102", "00080104")] == ["CTT", "99LOCAL", "CT thorax"]
    (protocol,) = item.step["00400008"]["Value"]
    assert text_of(protocol, "00080100") == "TX1"


def test_an_imaging_order_with_two_steps() -> None:
    first, second = taken(orders.OMI, "utf-8").items
    assert [first.identity, second.identity] == [("A2", "RP2", "SPS2"), ("A2", "RP2", "SPS3")]
    assert text_of(first.data_set, TAGS["PatientName"]) == "Yamada^Tarou=山田^太郎"
    assert step(first) == ["MR", "MR1", "20260106", "101500.0000", "", "MR protocol", "SPS2"]
    assert step(second)[1] == "MR2"
    assert first.study_instance_uid == second.study_instance_uid == "1.2.3.5"


def test_an_order_without_identifiers_of_its_own_is_always_the_same() -> None:
    text = orders.ORDER.replace("|A1|RP1|SPS1|", "||||").replace("ZDS", "ZZZ")
    item = single(text)
    assert item.accession_number == "FI1"
    assert item == single(text)
    assert item.generated
    assert all(item.identity)


def test_two_orders_in_one_message() -> None:
    second = "ORC|NW|PL9|FI9\n" + orders.segment(
        "OBR", f4="X^Y^L", f18="A9", f19="RP9", f20="SPS9", f21="CT2", f24="CT", f36="202601060800"
    )
    first, other = taken(orders.ORDER + second).items
    assert (first.accession_number, other.accession_number) == ("A1", "A9")
    assert step(other)[:4] == ["CT", "CT2", "20260106", "0800"]
    assert other.study_instance_uid == "1.2.3.4"  # the one ZDS stands for both


@pytest.mark.parametrize(
    ("start", "date", "time"),
    [("20260105", "20260105", "0000"), ("2026010509", "20260105", "09"), ("20260105093000+0100", "20260105", "093000")],
)
def test_starts(start: str, date: str, time: str) -> None:
    assert step(single(orders.ORDER.replace("20260105093000", start)))[2:4] == [date, time]


def test_the_start_from_the_order_segment() -> None:
    item = single(orders.ORDER.replace("|20260105093000", ""))
    assert step(item)[2:4] == ["20260105", "0930"]


@pytest.mark.parametrize(
    ("sex", "expected"), [("M", "M"), ("f", "F"), ("O", "O"), ("A", "O"), ("U", ""), ("", ""), ("xyz", "")]
)
def test_sexes(sex: str, expected: str) -> None:
    assert whole(single(orders.ORDER.replace("|19700101|F", f"|19700101|{sex}")))["PatientSex"] == expected


def test_values_stay_single_values() -> None:
    r"""A backslash separates values in DICOM, and ^ and = parts of a name."""
    text = orders.ORDER.replace("Müller", r"M\E\u\S\l=r").replace("CT thorax", r"CT\E\MR\X0D\x")
    item = single(text)
    assert whole(item)["PatientName"] == "M/u l r^Anna^^Dr^Jr"
    assert whole(item)["RequestedProcedureDescription"] == "CT/MR x"


def test_long_texts_are_cut_but_identifiers_are_not() -> None:
    item = single(orders.ORDER.replace("^Cough", "^" + "x" * 70).replace("CT thorax", "y" * 70))
    assert len(whole(item)["RequestedProcedureDescription"]) == 64
    for old, new in (("|||P1^", "|||" + "x" * 65 + "^"), ("|A1|", f"|{'x' * 17}|"), ("|SPS1|", f"|{'x' * 17}|")):
        with pytest.raises(InvalidWorklistItem, match="longer than"):
            taken(orders.ORDER.replace(old, new))


@pytest.mark.parametrize("control", ["NW", "SC", "XO", "SN", "RP"])
def test_what_puts(control: str) -> None:
    assert taken(orders.ORDER.replace("ORC|NW", f"ORC|{control}")).action is OrderAction.PUT


@pytest.mark.parametrize("control", ["CA", "OC", "DC", "SC|PL1|FI1||CA", "SC|PL1|FI1||DC"])
def test_what_cancels(control: str) -> None:
    order = taken(re.sub(r"ORC\|NW[^\n]*", lambda _: f"ORC|{control}|", orders.ORDER))
    assert order == Order(OrderAction.CANCEL, keys=[CancellationKey("A1", "RP1", "SPS1")])


def test_a_cancellation_needs_no_more_than_the_number() -> None:
    text = "MSH|^~\\&|||||||ORM^O01|M|P|2.3\nPID|||P1\nORC|CA|PL1|FI1\n"
    assert taken(text).keys == [CancellationKey("FI1", "", "")]


def test_a_cancellation_of_an_order_with_several_steps() -> None:
    assert taken(orders.OMI.replace("ORC|NW", "ORC|CA"), "utf-8").keys == [CancellationKey("A2", "RP2", "")]


@pytest.mark.parametrize(
    ("old", "new", "names", "condition"),
    [
        ("ORM^O01", "ADT^A01", "MSH-9", ErrorCondition.UNSUPPORTED_TYPE),
        ("2.3.1", "3.0", "MSH-12", ErrorCondition.UNSUPPORTED_VERSION),
        ("|M1|", "||", "MSH-10", ErrorCondition.REQUIRED_FIELD_MISSING),
        ("PID|", "PIX|", "PID", ErrorCondition.SEGMENT_SEQUENCE),
        ("PV1|", "PID|", "PID", ErrorCondition.SEGMENT_SEQUENCE),
        ("ORC|NW", "ORC|", "ORC-1", ErrorCondition.REQUIRED_FIELD_MISSING),
        ("ORC|NW", "ORC|ZZ", "ORC-1", ErrorCondition.TABLE_VALUE),
        ("20260105093000", "tomorrow", "OBR-36", ErrorCondition.DATA_TYPE),
    ],
)
def test_what_is_no_order(old: str, new: str, names: str, condition: ErrorCondition) -> None:
    error = problem(orders.ORDER.replace(old, new))
    assert str(error).startswith(names)
    assert error.condition == condition


def test_an_order_without_order_segments() -> None:
    text = "".join(line + "\n" for line in orders.ORDER.splitlines() if line[:3] in ("MSH", "PID"))
    assert problem(text).condition == ErrorCondition.SEGMENT_SEQUENCE


def test_orders_and_cancellations_do_not_mix() -> None:
    assert problem(orders.ORDER + "ORC|CA|PL2|FI2\n").condition == ErrorCondition.TABLE_VALUE


def test_the_same_step_twice() -> None:
    with pytest.raises(InvalidWorklistItem, match="same identifiers"):
        taken(orders.ORDER + orders.ORDER[orders.ORDER.index("ORC|") : orders.ORDER.index("ZDS|")])


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("|CT1|||CT|", "||||CT|", "ScheduledStationAETitle"),
        ("|CT1|||CT|", "|CT1||||", "Modality"),
        ("Müller^Anna^^Jr^Dr", "", "PatientName"),
        ("P1^^^HOSP&1.2.3&ISO^MR~X9^^^OTHER", "", "PatientID"),
        ("1.2.3.4^", "a.b^", "StudyInstanceUID"),
    ],
)
def test_what_makes_no_item(old: str, new: str, names: str) -> None:
    with pytest.raises(InvalidWorklistItem, match=names):
        taken(orders.ORDER.replace(old, new))


def test_nothing_of_the_message_is_in_an_error() -> None:
    for old, new in (("20260105093000", "SECRET"), ("ORC|NW", "ORC|SECRET"), ("|A1|", f"|{'SECRET' * 9}|")):
        with pytest.raises((InvalidMessage, InvalidWorklistItem)) as caught:
            taken(orders.ORDER.replace(old, new))
        assert "SECRET" not in str(caught.value)


# ------------------------------------------------------------------------------------ acknowledgments


def test_accepted() -> None:
    message = parse(orders.wire(orders.ORDER))
    found = acknowledgment(message, NOW)
    assert found.startswith(b"MSH|^~\\&|PACS|HOSP|RIS|HOSP|20260105080001||ACK^O01|")
    parsed = peer.parse(found.decode("latin_1"))
    assert [str(parsed[f"MSH.F{number}"]) for number in (11, 12, 18)] == ["P", "2.3.1", "8859/1"]
    assert orders.answer(found) == ("AA", "M1", "")
    assert b"ERR" not in found


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        (ErrorCondition.REQUIRED_FIELD_MISSING, "AE"),
        (ErrorCondition.TABLE_VALUE, "AE"),
        (ErrorCondition.UNKNOWN_KEY, "AE"),
        (ErrorCondition.UNSUPPORTED_TYPE, "AR"),
        (ErrorCondition.INTERNAL, "AR"),
    ],
)
def test_refused(condition: ErrorCondition, code: str) -> None:
    found = acknowledgment(parse(orders.wire(orders.ORDER)), NOW, InvalidMessage("a|b", condition))
    assert orders.answer(found) == (code, "M1", r"a\F\b")
    number, text = condition.split("^")
    assert f"ERR|||{number}^{text}^HL70357|E||||a\\F\\b\r".encode() in found


def test_an_answer_to_what_is_no_message() -> None:
    found = acknowledgment(None, NOW, InvalidMessage("no", ErrorCondition.SEGMENT_SEQUENCE))
    assert found.startswith(b"MSH|^~\\&|||||20260105080001||ACK|")
    assert orders.answer(found) == ("AE", "", "no")


# ------------------------------------------------------------------------------------ documentation


def test_the_page_has_the_map() -> None:
    page = PAGE.read_text(encoding="utf-8")
    tables = (hl7_orders.PLACES, hl7_orders.STEP_PLACES, hl7_orders.NAMES, hl7_orders.CODES, hl7_orders.STEP_CODES)
    for table in tables:
        for keyword, places in table.items():
            assert f"| {keyword} | {', '.join(places.split())} |" in page
    assert ", ".join(hl7_orders.START.split()) in page
    assert ", ".join(hl7_orders.PRIORITY.split()) in page
    assert all(f"`{control}`" in page for control in hl7_orders.ACTIONS)
