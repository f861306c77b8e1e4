"""C-STORE and C-FIND: statuses, and what is kept and found."""

import copy
import errno
import hashlib
import os

import numpy as np
import pytest
from datasets import data_set_bytes, make_ct, parse_data_set, pydicom_test_files, uid
from pydicom import dcmread
from servers import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    STUDY_FIND,
    RawPeer,
    associated,
    get,
    message,
    store,
    store_request,
    stored_files,
)
from strategies import encoded, identifier

from pacs_server.errors import IndexUnavailable
from pacs_server.net.message import Command, CommandField


def _instances(pacs):
    return pacs.status()["counts"]["instances"]


# ------------------------------------------------------------------------------------ C-STORE


@pytest.mark.filterwarnings("ignore::UserWarning")  # some of these files are odd on purpose
def test_what_is_stored_is_kept_byte_for_byte(serve):
    """Every sound file of pydicom, in the transfer syntax it is in."""
    pacs = serve()
    sent = {}
    for path in pydicom_test_files():
        header = dcmread(path, stop_before_pixels=True)
        sop, sop_class = str(header.SOPInstanceUID), str(header.SOPClassUID)
        if sop in sent:
            continue
        syntax, data = data_set_bytes(path)
        with RawPeer.associated(pacs.address, (sop_class, [syntax])) as peer:
            peer.send(message(1, store_request(sop, sop_class=sop_class), data))
            assert peer.read_message().command.status == 0, path
        sent[sop] = (syntax, hashlib.sha256(data).digest())
    kept = [data_set_bytes(path) for path in stored_files(pacs)]
    assert sorted((syntax, hashlib.sha256(data).digest()) for syntax, data in kept) == sorted(sent.values())
    assert len(sent) > 20


def _send(pacs, sop, data, *, sop_class=CT, syntax=EXPLICIT):
    with RawPeer.associated(pacs.address, (CT, [syntax])) as peer:
        peer.send(message(1, store_request(sop, sop_class=sop_class), data))
        command = peer.read_message().command
        peer.release()
    return command


@pytest.mark.parametrize(
    ("announced", "attributes", "status"),
    [
        ("same", {"StudyInstanceUID": ""}, 0xC000),
        ("same", {"SeriesInstanceUID": None}, 0xC000),
        ("same", {"SOPInstanceUID": "not.a.uid"}, 0xC000),
        ("same", {"SOPInstanceUID": "../../evil"}, 0xC000),
        ("same", {"StudyInstanceUID": "1." + "2" * 70}, 0xC000),
        ("", {}, 0xC000),
        ("1.2.3.4", {}, 0xA900),
        ("same", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.filterwarnings("ignore:The value length")
def test_instances_that_cannot_be_taken(serve, announced, attributes, status):
    pacs = serve()
    ds = make_ct(rows=2, columns=2, **attributes)
    command = _send(pacs, str(ds.SOPInstanceUID) if announced == "same" else announced, encoded(ds, EXPLICIT))
    assert command.status == status
    assert command.error_comment
    assert len(command.error_comment) <= 64
    assert stored_files(pacs) == []
    assert _instances(pacs) == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 1000, b"\x08\0\x05\0CS\x0a\0ISO_IR 100", bytes(3)],
    ids=["empty", "rubbish", "no-uids", "cut"],
)
def test_data_sets_that_cannot_be_understood(serve, data):
    pacs = serve()
    assert _send(pacs, "1.2.3", data).status == 0xC000
    assert stored_files(pacs) == []


@pytest.mark.parametrize("rows", [16, 512])
def test_half_an_image_does_not_stand_in_the_way_of_the_whole(serve, rows):
    pacs = serve()
    ds = make_ct(rows=rows, columns=rows)
    whole = encoded(ds, EXPLICIT)
    for half in (whole[:-1], whole[: len(whole) - rows]):
        refused = _send(pacs, str(ds.SOPInstanceUID), half)
        assert (refused.status, refused.error_comment) == (0xC000, "the data set ends in the middle of Pixel Data")
    assert _send(pacs, str(ds.SOPInstanceUID), whole).status == 0
    assert len(stored_files(pacs)) == 1


def test_a_class_that_is_not_the_contexts(serve):
    pacs = serve()
    ds = make_ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert _send(pacs, str(ds.SOPInstanceUID), encoded(ds, EXPLICIT), sop_class=ds.SOPClassUID).status == 0xA900


def test_a_full_disk(serve):
    pacs = serve(storage={"min_free_space": 2**60})
    ds = make_ct()
    command = _send(pacs, str(ds.SOPInstanceUID), encoded(ds, EXPLICIT))
    assert command.status == 0xA700
    assert "free" in command.error_comment


def test_a_disk_that_fills_up_while_it_is_written_to(serve, monkeypatch):
    pacs = serve()
    ds = make_ct(rows=600, columns=600)
    room = iter([b"head", b"piece", b"piece"])

    def write(descriptor, data, write=os.write):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert _send(pacs, str(ds.SOPInstanceUID), encoded(ds, EXPLICIT)).status == 0xA700
    assert stored_files(pacs) == []


def test_an_index_that_is_down(serve, monkeypatch):
    pacs = serve()
    ds = make_ct()

    def add(*_, **__):
        raise IndexUnavailable("the index does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("pacs_server.index.instances.InstanceIndex.add", add)
        assert store(pacs, ds) == [0xA700]
    assert stored_files(pacs) == []
    assert store(pacs, ds) == [0]


@pytest.mark.parametrize(
    ("policy", "status", "kept"), [("reject", 0x0111, "First"), ("replace", 0, "Second"), ("ignore", 0, "First")]
)
def test_other_bytes_under_a_known_uid_go_by_the_policy(serve, policy, status, kept):
    pacs = serve(storage={"duplicate_policy": policy})
    first = make_ct(StudyDescription="First")
    second = make_ct(first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, StudyDescription="Second")
    assert store(pacs, first, first, second, second if policy != "reject" else first) == [0, 0, status, 0]
    assert _instances(pacs) == 1
    _, got = get(pacs, identifier("STUDY", StudyInstanceUID=first.StudyInstanceUID))
    assert [parse_data_set(data, EXPLICIT).StudyDescription for _, data in got] == [kept]


def test_the_log_names_the_instance_that_was_refused(serve, caplog):
    caplog.set_level("INFO", "pacs_server")
    pacs = serve()
    first = make_ct(StudyDescription="First")
    second = make_ct(first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, StudyDescription="Second")
    assert store(pacs, first, second) == [0, 0x0111]
    [line] = [vars(record) for record in caplog.records if vars(record).get("status") == "0x0111"]
    assert line["sop_instance_uid"] == first.SOPInstanceUID
    assert line["reason"] == "another object is stored under this SOP Instance UID"


def test_what_is_no_uid_is_not_logged(serve, caplog):
    caplog.set_level("INFO", "pacs_server")
    assert _send(serve(), "DOE^QUILLANZYX", b"").status != 0
    assert "QUILLANZYX" not in caplog.text
    assert not any("QUILLANZYX" in str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("policy", ["reject", "replace", "ignore"])
def test_the_same_object_in_another_transfer_syntax_is_success_and_changes_nothing(serve, policy):
    pacs = serve(storage={"duplicate_policy": policy})
    ds = make_ct()
    assert store(pacs, ds) == [0]
    (file,) = stored_files(pacs)
    before = file.read_bytes()
    for syntax in (IMPLICIT, BIG_ENDIAN, DEFLATED):
        assert _send(pacs, str(ds.SOPInstanceUID), in_syntax(ds, syntax), syntax=syntax).status == 0
    assert [path.read_bytes() for path in stored_files(pacs)] == [before]
    ds.StudyDescription = "Another"
    status = _send(pacs, str(ds.SOPInstanceUID), in_syntax(ds, IMPLICIT), syntax=IMPLICIT).status
    assert status == (0x0111 if policy == "reject" else 0)


def in_syntax(ds, syntax):
    made = copy.deepcopy(ds)
    if syntax == BIG_ENDIAN:  # pydicom leaves the byte order of words to its callers
        made.PixelData = np.frombuffer(ds.PixelData, "u2").byteswap().tobytes()
    return encoded(made, syntax)


# ------------------------------------------------------------------------------------ C-FIND


def test_find_answers_what_was_asked_for(serve):
    pacs = serve()
    one, other = make_ct(PatientName="Ä^B", PatientID="P1"), make_ct(PatientName="Other", PatientID="P2")
    assert store(pacs, one, other) == [0, 0]
    with associated(pacs, STUDY_FIND) as association:
        keys = identifier(
            "STUDY", PatientName="ä*", StudyInstanceUID="", PatientID="", NumberOfStudyRelatedInstances=""
        )
        keys.SpecificCharacterSet = "ISO_IR 100"
        answers = [(int(status.Status), found) for status, found in association.send_c_find(keys, STUDY_FIND)]
    assert [status for status, _ in answers] == [0xFF00, 0]
    assert answers[0][1].StudyInstanceUID == one.StudyInstanceUID
    assert answers[0][1].RetrieveAETitle == "PACS_SERVER"
    assert answers[0][1].NumberOfStudyRelatedInstances == 1
    assert answers[1][1] is None


def test_the_log_names_the_keys_of_a_query_and_not_their_values(serve, caplog):
    caplog.set_level("INFO", "pacs_server")
    with associated(serve(), STUDY_FIND) as association:
        keys = identifier("STUDY", PatientName="QUILLANZYX*", PatientID="", StudyDate="20260105-")
        assert [int(status.Status) for status, _ in association.send_c_find(keys, STUDY_FIND)] == [0]
    [line] = [vars(record) for record in caplog.records if vars(record).get("operation") == "C-FIND"]
    assert (line["level"], line["matches"], line["keys"]) == ("STUDY", 0, "StudyDate,PatientName")
    assert "QUILLANZYX" not in caplog.text


def test_find_says_when_a_key_is_not_supported(serve):
    pacs = serve()
    assert store(pacs, make_ct()) == [0]
    with associated(pacs, STUDY_FIND) as association:
        keys = identifier("STUDY", StudyInstanceUID="", BurnedInAnnotation="")
        assert [int(status.Status) for status, _ in association.send_c_find(keys, STUDY_FIND)] == [0xFF01, 0]


@pytest.mark.parametrize("keys", [{"level": "GALAXY"}, {"level": "PATIENT"}, {"level": "SERIES"}])
def test_identifiers_that_break_the_model(serve, keys):
    pacs = serve()
    with associated(pacs, STUDY_FIND) as association:
        found = list(association.send_c_find(identifier(**keys, SeriesInstanceUID=""), STUDY_FIND))
        assert [status.Status for status, _ in found] == [0xA900]
        assert association.is_established


def test_find_is_cancelled_between_responses(serve):
    pacs = serve()
    study, series = uid(), uid()
    assert set(store(pacs, *[make_ct(study, series, rows=1, columns=1) for _ in range(80)])) == {0}
    keys = identifier("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID="")
    find = Command(command_field=CommandField.C_FIND, message_id=7, affected_sop_class_uid=STUDY_FIND)
    other, mine = (Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=n) for n in (6, 7))
    with RawPeer.associated(pacs.address, (STUDY_FIND, [IMPLICIT])) as peer:
        peer.send(message(1, find, encoded(keys)) + message(1, other) + message(1, mine))
        statuses = []
        while not statuses or statuses[-1] == 0xFF00:
            statuses.append(peer.read_message().command.status)
        assert statuses[-1] == 0xFE00
        assert 0 < len(statuses) < 40
        peer.send(message(1, find, encoded(keys)))
        assert [peer.read_message().command.status for _ in range(81)] == [0xFF00] * 80 + [0]
