"""Requests for storage commitment and reports about them, as data sets."""

import struct
import zlib
from contextlib import suppress

import pytest
from datasets import parse_data_set, uid
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from servers import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT
from strategies import encoded

from pacs_server.dicom import commitment
from pacs_server.dicom.commitment import CommitmentEvent, FailureReason, Reference, encode_report, parse_request
from pacs_server.errors import InvalidArgumentValue, ResourceLimitation

SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
CT = "1.2.840.10008.5.1.4.1.1.2"


def item(sop_class: str | None, sop_instance: str | None) -> Dataset:
    ds = Dataset()
    if sop_class is not None:
        ds.ReferencedSOPClassUID = sop_class
    if sop_instance is not None:
        ds.ReferencedSOPInstanceUID = sop_instance
    return ds


def information(transaction: str | None, *items: Dataset) -> Dataset:
    ds = Dataset()
    if transaction is not None:
        ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = Sequence(items)
    return ds


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_a_request_as_it_comes(syntax, undefined):
    transaction, one, other = uid(), uid(), uid()
    ds = information(transaction, item(CT, one), item("1.2.3", other), item(CT, one))
    ds.RetrieveAETitle = "ELSEWHERE"
    ds.ReferencedSOPSequence[1].StorageMediaFileSetID = "DISC"
    ds["ReferencedSOPSequence"].is_undefined_length = undefined
    for each in ds.ReferencedSOPSequence:
        each.is_undefined_length_sequence_item = undefined
    request = parse_request(encoded(ds, syntax), syntax)
    assert request.transaction_uid == transaction
    # Once is enough for the same instance.
    assert request.references == (Reference(CT, one), Reference("1.2.3", other))


@pytest.mark.parametrize(
    ("ds", "named"),
    [
        (information(None, item(CT, "1.2")), "Transaction UID is missing"),
        (information("", item(CT, "1.2")), "Transaction UID is missing"),
        (information("1.2"), "Referenced SOP Sequence"),
        (information("1.2", item(None, "1.2")), "Referenced SOP Class UID is missing"),
        (information("1.2", item(CT, None)), "Referenced SOP Instance UID is missing"),
        (information("1.2", item(CT, "1.2"), item("", "1.2")), "Referenced SOP Class UID is missing"),
        (Dataset(), "Transaction UID"),
    ],
)
def test_what_a_request_may_not_lack(ds, named):
    with pytest.raises(InvalidArgumentValue, match=named):
        parse_request(encoded(ds), IMPLICIT)


def test_what_is_no_uid():
    data = encoded(information("1.2.3", item(CT, "1.9.9.9")))
    with pytest.raises(InvalidArgumentValue, match="Transaction UID is not a UID"):
        parse_request(data.replace(b"1.2.3\0", b"1..23\0"), IMPLICIT)
    with pytest.raises(InvalidArgumentValue, match="Instance UID is not a UID"):
        parse_request(data.replace(b"1.9.9.9", b"1.9.../"), IMPLICIT)


@pytest.mark.parametrize("syntax", SYNTAXES)
@given(data=st.binary(max_size=300), cut=st.integers(min_value=0, max_value=200))
def test_nothing_but_a_refusal_comes_out_of_garbage(syntax, data, cut):
    sound = encoded(information("1.2.3", item(CT, "1.2"), item(CT, "1.3")), syntax)
    for garbage in (data, sound[:cut] + data, data + sound):
        with suppress(InvalidArgumentValue, ResourceLimitation):
            assert parse_request(garbage, syntax).references


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_request_that_is_cut_is_no_shorter_request(syntax):
    sound = encoded(information("1.2.3", item(CT, "1.2"), item(CT, "1.3")), syntax)
    for end in range(len(sound)):
        with pytest.raises(InvalidArgumentValue):
            parse_request(sound[:end], syntax)


def test_more_than_there_is_room_for(monkeypatch):
    data = encoded(information("1.2.3", *(item(CT, f"1.{number}") for number in range(1, 5))))
    monkeypatch.setattr(commitment, "MAX_REFERENCES", 4)
    assert len(parse_request(data, IMPLICIT).references) == 4
    monkeypatch.setattr(commitment, "MAX_REFERENCES", 3)
    with pytest.raises(ResourceLimitation):
        parse_request(data, IMPLICIT)


def test_a_deflated_bomb(monkeypatch):
    monkeypatch.setattr(commitment, "MAX_REQUEST_BYTES", 100)
    with pytest.raises(ResourceLimitation):
        parse_request(encoded(information("1.2.3", *[item(CT, "1.2")] * 100), DEFLATED), DEFLATED)


@pytest.mark.slow
def test_as_many_as_are_allowed():
    """The largest request is read, in well less memory than data set objects would take."""
    value = item(CT, "1.2.3")
    one = encoded(value)
    head = encoded(information("1.2.3"))[:-8]
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one.replace(b"1.2.3\0", b"%06d" % number)
        for number in range(100_000, 100_000 + commitment.MAX_REFERENCES)
    )
    data = head + struct.pack("<HHI", 0x0008, 0x1199, len(items)) + items
    assert len(parse_request(data, IMPLICIT).references) == commitment.MAX_REFERENCES


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_reports(syntax):
    good, bad = Reference(CT, "1.2.3"), Reference("1.2.840.10008.5.1.4.1.1.4", "1.2.34")
    results = [(good, 0), (bad, FailureReason.CLASS_INSTANCE_CONFLICT), (bad, FailureReason.NO_SUCH_OBJECT_INSTANCE)]
    event, data = encode_report("1.5.6", "PACS", iter(results), syntax)
    assert event == CommitmentEvent.FAILURES_EXIST
    assert len(data) % 2 == 0
    ds = _parsed(data, syntax)
    assert (ds.TransactionUID, ds.RetrieveAETitle) == ("1.5.6", "PACS")
    assert [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in ds.ReferencedSOPSequence] == [good]
    found = [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID, i.FailureReason) for i in ds.FailedSOPSequence]
    assert found == [(*bad, 0x0119), (*bad, 0x0112)]
    assert [element.tag for element in ds] == sorted(element.tag for element in ds)


@pytest.mark.parametrize(("reason", "event", "there"), [(0, 1, "Referenced"), (0x0110, 2, "Failed")])
def test_an_empty_list_is_left_out(reason, event, there):
    found, data = encode_report("1.5.6", "PACS", [(Reference(CT, "1.2"), reason)], EXPLICIT)
    ds = _parsed(data, EXPLICIT)
    assert found == event
    assert ds.dir("SOPSequence") == [f"{there}SOPSequence"]


def _parsed(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        data, syntax = zlib.decompress(data, -zlib.MAX_WBITS), EXPLICIT
    return parse_data_set(data, syntax)
