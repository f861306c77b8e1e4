"""Performed procedure steps over the network: a modality creates, sets and gets them, and the worklist follows."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
import servers
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve
from servers import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, RawPeer, message
from worklists import json_of

from pacs_server.app.server import PacsServer
from pacs_server.dicom.worklist import ItemStatus, items_of_order
from pacs_server.net.message import Command, CommandField

MPPS, RETRIEVE = str(ModalityPerformedProcedureStep), str(ModalityPerformedProcedureStepRetrieve)
STUDY = "1.2.826.0.1.3680043.9.7.1"
Serve = Callable[..., PacsServer]


def data_set(**values: object) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, Items(value) if isinstance(value, list) else value)
    return found


def scheduled(number: int = 1, study: str = STUDY, **values: object) -> Dataset:
    """An item of Scheduled Step Attributes Sequence."""
    return data_set(**{
        "StudyInstanceUID": study, "ReferencedStudySequence": [], "AccessionNumber": f"A{number}",
        "RequestedProcedureID": f"RP{number}", "RequestedProcedureDescription": "Head",
        "ScheduledProcedureStepID": f"SPS{number}", "ScheduledProcedureStepDescription": "Head",
        "ScheduledProtocolCodeSequence": [],
    } | values)  # fmt: skip


def creation(*steps: Dataset, **values: object) -> Dataset:
    """The attributes of an N-CREATE."""
    return data_set(**{
        "ScheduledStepAttributesSequence": list(steps) or [scheduled()], "PatientName": "Doe^Jane", "PatientID": "P1",
        "PatientBirthDate": "", "PatientSex": "", "ReferencedPatientSequence": [], "PerformedProcedureStepID": "PPS1",
        "PerformedStationAETitle": "CT1", "PerformedStationName": "", "PerformedLocation": "",
        "PerformedProcedureStepStartDate": "20250301", "PerformedProcedureStepStartTime": "101500",
        "PerformedProcedureStepStatus": "IN PROGRESS", "PerformedProcedureStepDescription": "",
        "PerformedProcedureTypeDescription": "", "ProcedureCodeSequence": [], "PerformedProcedureStepEndDate": "",
        "PerformedProcedureStepEndTime": "", "Modality": "CT", "StudyID": "", "PerformedProtocolCodeSequence": [],
        "PerformedSeriesSequence": [],
    } | values)  # fmt: skip


def series(*sops: str, **values: object) -> Dataset:
    """An item of Performed Series Sequence."""
    images = [data_set(ReferencedSOPClassUID=str(CTImageStorage), ReferencedSOPInstanceUID=sop) for sop in sops]
    return data_set(**{
        "PerformingPhysicianName": "", "ProtocolName": "Head", "OperatorsName": "", "SeriesInstanceUID": f"{STUDY}.1",
        "SeriesDescription": "", "RetrieveAETitle": "", "ReferencedImageSequence": images,
        "ReferencedNonImageCompositeSOPInstanceSequence": [],
    } | values)  # fmt: skip


def final(status: str = "COMPLETED", *performed: Dataset, **values: object) -> Dataset:
    """The modifications of the last N-SET."""
    return data_set(**{
        "PerformedProcedureStepStatus": status, "PerformedProcedureStepEndDate": "20250301",
        "PerformedProcedureStepEndTime": "103000", "PerformedSeriesSequence": list(performed) or [series()],
    } | values)  # fmt: skip


def item(number: int = 1, study: str = STUDY) -> Dataset:
    """A worklist item."""
    step = data_set(
        ScheduledStationAETitle="CT1", ScheduledProcedureStepStartDate="20250301", Modality="CT",
        ScheduledProcedureStepStartTime="1000", ScheduledProcedureStepID=f"SPS{number}",
        ScheduledProcedureStepDescription="Head",
    )  # fmt: skip
    return data_set(
        PatientName="Doe^Jane", PatientID="P1", StudyInstanceUID=study, AccessionNumber=f"A{number}",
        RequestedProcedureID=f"RP{number}", ScheduledProcedureStepSequence=[step],
    )  # fmt: skip


def schedule(pacs: PacsServer, *items: Dataset) -> None:
    for each in items:
        pacs.archive.worklist.put(items_of_order(json_of(each), "test"))


def item_status(pacs: PacsServer, number: int = 1) -> ItemStatus:
    row = pacs.archive.worklist.get(f"A{number}")
    assert row is not None
    return row.item.status


class Modality:
    """An MPPS SCU; the answers are status, Affected SOP Instance UID and data set."""

    def __init__(self, association: Association) -> None:
        self._association = association

    def create(self, attributes: Dataset | None, uid: str | None = "1.2.3") -> Dataset:
        return self._association.send_n_create(attributes, MPPS, uid)[0]

    def set(self, modifications: Dataset, uid: str = "1.2.3") -> Dataset:
        return self._association.send_n_set(modifications, MPPS, uid)[0]

    def get(self, *tags: int, uid: str = "1.2.3") -> tuple[int, Dataset | None]:
        status, found = self._association.send_n_get(list(tags), RETRIEVE, uid)
        return status.Status, found


@contextmanager
def modality(pacs: PacsServer, syntax: str = EXPLICIT) -> Iterator[Modality]:
    with servers.associated(pacs, (MPPS, syntax), (RETRIEVE, syntax), calling="CT1") as association:
        yield Modality(association)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_step_from_beginning_to_end(serve: Serve, syntax: str) -> None:
    pacs = serve()
    schedule(pacs, item())
    with modality(pacs, syntax) as scu:
        assert scu.create(creation()).Status == 0x0000
        assert item_status(pacs) == "IN PROGRESS"
        assert scu.set(final("COMPLETED", series("1.2.3.1", "1.2.3.2"))).Status == 0x0000
        assert item_status(pacs) == "COMPLETED"
        status, found = scu.get()
    assert status == 0x0000
    assert found is not None
    assert (found.PatientName, found.PerformedProcedureStepStatus) == ("Doe^Jane", "COMPLETED")
    images = found.PerformedSeriesSequence[0].ReferencedImageSequence
    assert [image.ReferencedSOPInstanceUID for image in images] == ["1.2.3.1", "1.2.3.2"]


def changed(source: Dataset, remove: str = "", **values: object) -> Dataset:
    """A copy with an attribute less, or with other values."""
    found = Dataset()
    found.update(source)
    if remove:
        del found[remove]
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        (changed(creation(), PerformedProcedureStepStatus="COMPLETED"), 0x0106),
        (changed(creation(), PerformedProcedureStepStatus="STARTED"), 0x0106),
        (changed(creation(), "PerformedProcedureStepStatus"), 0x0120),
        (changed(creation(), PerformedProcedureStepStatus=""), 0x0121),
        (changed(creation(), "Modality"), 0x0120),
        (changed(creation(), Modality=""), 0x0121),
        (changed(creation(), "ScheduledStepAttributesSequence"), 0x0120),
        (changed(creation(), ScheduledStepAttributesSequence=Items([])), 0x0121),
        (creation(changed(scheduled(), "StudyInstanceUID")), 0x0120),
        (creation(scheduled(study="")), 0x0121),
        (creation(scheduled(), Dataset()), 0x0120),
        (creation(PerformedSeriesSequence=[series(ProtocolName="")]), 0x0121),
        (None, 0x0120),
        (changed(creation(), "PatientName"), 0x0000),  # of type 2, which may as well be empty
    ],
)
def test_what_n_create_is_answered_with(serve: Serve, attributes: Dataset | None, status: int) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        answer = scu.create(attributes)
        assert answer.Status == status
        assert bool(answer.get("ErrorComment")) == (status != 0)
        assert scu.get()[0] == (0x0112 if status else 0x0000)


def test_a_wrong_value_comes_back_in_the_attribute_list(serve: Serve) -> None:
    pacs = serve()
    request = Command(
        command_field=CommandField.N_CREATE, message_id=5, affected_sop_class_uid=MPPS,
        affected_sop_instance_uid="1.2.3",
    )  # fmt: skip
    with RawPeer.associated(pacs.address, (MPPS, [IMPLICIT])) as peer:
        attributes = changed(creation(), PerformedProcedureStepStatus="COMPLETED")
        peer.send(message(1, request, encode(attributes, True, True)))
        reply = peer.read_message()
        assert (reply.command.status, reply.command.message_id_being_responded_to) == (0x0106, 5)
        assert reply.data == b"\x40\x00\x52\x02\x0a\x00\x00\x00COMPLETED "
        peer.send(message(1, request, encode(changed(creation(), "Modality"), True, True)))
        reply = peer.read_message()
        assert (reply.command.status, reply.data) == (0x0120, b"")
        assert reply.command.attribute_identifier_list == b"\x08\x00\x60\x00"


def test_uids_of_a_new_step(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        assert scu.create(creation()).Status == 0x0000
        assert scu.create(creation()).Status == 0x0111
        # PS3.7 10.1.5.1.4: without a UID of the SCU's the SCP makes one and tells it.
        assert scu.create(creation(), None).Status == 0x0000
    made = [row.sop_instance_uid for row in pacs.archive.mpps.list()]
    assert made[1] == "1.2.3"
    assert made[0].startswith("2.25.")


def test_the_uid_that_was_made_is_told_and_usable(serve: Serve) -> None:
    pacs = serve()
    request = Command(command_field=CommandField.N_CREATE, message_id=1, affected_sop_class_uid=MPPS)
    with RawPeer.associated(pacs.address, (MPPS, [IMPLICIT])) as peer:
        peer.send(message(1, request, encode(creation(), True, True)))
        reply = peer.read_message()
    assert (reply.command.status, reply.command.affected_sop_class_uid) == (0x0000, MPPS)
    with modality(pacs) as scu:
        assert scu.get(uid=reply.command.affected_sop_instance_uid or "")[0] == 0x0000


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (Command(affected_sop_class_uid="1.2.840.10008.1.1", affected_sop_instance_uid="1.2.3"), 0x0118),
        (Command(affected_sop_class_uid=MPPS, affected_sop_instance_uid="1.2.x"), 0x0117),
    ],
)
def test_commands_that_do_not_fit(serve: Serve, command: Command, status: int) -> None:
    pacs = serve()
    command.command_field, command.message_id = CommandField.N_CREATE, 1
    with RawPeer.associated(pacs.address, (MPPS, [IMPLICIT])) as peer:
        peer.send(message(1, command, encode(creation(), True, True)))
        assert peer.read_message().command.status == status
        # A data set that is cut in the middle of an element.
        command = Command(CommandField.N_CREATE, 2, affected_sop_class_uid=MPPS, affected_sop_instance_uid="1.2.3")
        peer.send(message(1, command, (encode(creation(), True, True) or b"")[:-3]))
        assert peer.read_message().command.status == 0x0110
        assert list(pacs.archive.mpps.list()) == []
        peer.release()


@pytest.mark.parametrize(
    ("modifications", "status"),
    [
        (data_set(PatientName="Roe^Richard"), 0x0106),
        (data_set(PatientName="Doe^Jane"), 0x0000),  # repeated, not set
        (data_set(ScheduledStepAttributesSequence=[scheduled(2)]), 0x0106),
        (data_set(Modality="MR"), 0x0106),
        (data_set(PerformedProcedureStepStartTime="111111"), 0x0106),
        (data_set(PerformedProcedureStepStatus="DONE"), 0x0106),
        (data_set(PerformedProcedureStepStatus=""), 0x0121),
        (data_set(PerformedProcedureStepStatus="IN PROGRESS"), 0x0000),
        (data_set(PerformedSeriesSequence=[series("1.2.9")]), 0x0000),
        (data_set(PerformedSeriesSequence=[changed(series(), "SeriesInstanceUID")]), 0x0120),
        (data_set(PerformedProcedureStepStatus="COMPLETED"), 0x0121),
        (changed(final(), PerformedSeriesSequence=Items([])), 0x0121),
        # Table F.7.2-1 note 2 makes no difference between the two ends.
        (changed(final("DISCONTINUED"), PerformedSeriesSequence=Items([])), 0x0121),
        (changed(final(), PerformedProcedureStepEndTime=""), 0x0121),
        (final("COMPLETED"), 0x0000),
        (final("DISCONTINUED"), 0x0000),
    ],
)
def test_what_n_set_is_answered_with(serve: Serve, modifications: Dataset, status: int) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        scu.create(creation())
        before = scu.get()[1]
        assert scu.set(modifications).Status == status
        after = scu.get()[1]
        if status:
            assert after == before


def test_unknown_steps(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        assert scu.set(final(), "1.2.9").Status == 0x0112
        assert scu.get(uid="1.2.9")[0] == 0x0112


@pytest.mark.parametrize("end", ["COMPLETED", "DISCONTINUED"])
def test_a_step_that_is_over_stays_as_it_is(serve: Serve, end: str) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        scu.create(creation())
        assert scu.set(final(end)).Status == 0x0000
        for modifications in (
            final("COMPLETED"),
            final("DISCONTINUED"),
            data_set(PerformedProcedureStepDescription="x"),
        ):
            answer = scu.set(modifications)
            assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
            assert answer.ErrorComment == "Performed Procedure Step Object may no longer be updated"
        _, found = scu.get()
        assert found is not None
        assert (found.PerformedProcedureStepStatus, found.StudyID) == (end, "")


def test_of_two_ends_at_once_one_wins(serve: Serve) -> None:
    pacs = serve()
    barrier = threading.Barrier(2)
    answers: dict[str, int] = {}

    def finish(uid: str, status: str) -> None:
        with modality(pacs) as scu:
            barrier.wait(60)
            answers[status] = scu.set(final(status), uid).Status

    for number in range(5):
        uid = f"1.2.3.{number}"
        with modality(pacs) as scu:
            scu.create(creation(), uid)
        threads = [threading.Thread(target=finish, args=(uid, end)) for end in ("COMPLETED", "DISCONTINUED")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers.values()) == [0x0000, 0x0110]
        winner = next(end for end, status in answers.items() if status == 0)
        assert pacs.archive.mpps.show(uid).row.status == winner


def test_n_get_answers_what_was_asked_for(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        scu.create(creation(SpecificCharacterSet="ISO_IR 100", PatientWeight="70.50"))
        status, found = scu.get(0x00100010, 0x00400252, 0x00400280)
        # Comments on the Performed Procedure Step is supported, and has no value.
        assert status == 0x0000
        assert found is not None
        assert sorted(element.keyword for element in found) == [
            "PatientName", "PerformedProcedureStepStatus", "SpecificCharacterSet",
        ]  # fmt: skip
        status, found = scu.get(0x00100010, 0x00280010)
        assert status == 0x0001
        assert found is not None
        assert found.PatientName == "Doe^Jane"
        _, found = scu.get()
        assert found is not None
        assert str(found.PatientWeight) == "70.50"


def test_attributes_of_type_2_are_there_though_they_were_not_sent(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        scu.create(changed(creation(), "PatientSex"))
        _, found = scu.get(0x00100040)
        assert found is not None
        assert found.PatientSex == ""


def test_private_attributes_and_binary_ones_are_kept(serve: Serve) -> None:
    pacs = serve()
    attributes = creation()
    block = attributes.private_block(0x0029, "MAKER", create=True)
    block.add_new(1, "LO", "what only the maker knows")
    block.add_new(2, "OB", bytes(range(256)) * 16)
    block.add_new(3, "FD", [1.5, -2.25])
    with modality(pacs) as scu:
        assert scu.create(attributes).Status == 0x0000
        _, found = scu.get()
    assert found is not None
    for element in block.dataset.group_dataset(0x0029):
        assert found[element.tag] == element


def test_text_of_two_character_sets_is_kept_right(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        scu.create(creation(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg"))
        scu.set(data_set(SpecificCharacterSet="ISO_IR 192", PerformedProcedureStepDescription="Schädel"))
        _, found = scu.get()
        assert found is not None
        # The set of the creation stays as long as it can represent the text.
        assert found.SpecificCharacterSet == "ISO_IR 100"
        assert (found.PatientName, found.PerformedProcedureStepDescription) == ("Müller^Jörg", "Schädel")
        scu.set(data_set(SpecificCharacterSet="ISO_IR 192", PerformedProcedureStepDescription="頭部 Schädel"))
        _, found = scu.get()
        assert found is not None
        assert found.SpecificCharacterSet == "ISO_IR 192"
        assert (found.PatientName, found.PerformedProcedureStepDescription) == ("Müller^Jörg", "頭部 Schädel")
        # Set again in the first one.
        scu.set(data_set(SpecificCharacterSet="ISO_IR 100", PerformedProcedureStepDescription="Fuß"))
        _, found = scu.get()
        assert found is not None
        assert (found.SpecificCharacterSet, found.PerformedProcedureStepDescription) == ("ISO_IR 100", "Fuß")


@pytest.mark.parametrize(("returns", "left"), [(True, "SCHEDULED"), (False, "DISCONTINUED")])
def test_the_item_of_a_discontinued_step(tmp_path: Path, returns: bool, left: str) -> None:
    settings = servers.config(tmp_path)
    settings = settings.model_copy(
        update={"worklist": settings.worklist.model_copy(update={"discontinued_returns": returns})}
    )
    with servers.running(settings) as pacs:
        schedule(pacs, item())
        with modality(pacs) as scu:
            scu.create(creation())
            scu.set(final("DISCONTINUED"))
            assert item_status(pacs) == left
            # Done again, and now to the end.
            scu.create(creation(), "1.2.4")
            assert item_status(pacs) == "IN PROGRESS"
            scu.set(final("COMPLETED"), "1.2.4")
            assert item_status(pacs) == "COMPLETED"


def test_a_step_for_two_items(serve: Serve) -> None:
    pacs = serve()
    schedule(pacs, item(1), item(2, study=f"{STUDY}.2"), item(3, study=f"{STUDY}.3"))
    with modality(pacs) as scu:
        # PS3.4 F.7.2.1.2 note 2: grouped procedures may have one study of the modality's.
        scu.create(creation(scheduled(1, study="1.9.9"), scheduled(2, study="1.9.9")))
        assert [item_status(pacs, n) for n in (1, 2, 3)] == ["IN PROGRESS", "IN PROGRESS", "SCHEDULED"]


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    settings = servers.config(tmp_path)
    with servers.running(settings) as pacs:
        schedule(pacs, item())
        with modality(pacs) as scu:
            scu.create(creation(PatientName="Doe^Jane"))
            _, before = scu.get()
    with servers.running(settings) as pacs:
        assert item_status(pacs) == "IN PROGRESS"
        with modality(pacs) as scu:
            assert scu.get() == (0x0000, before)
            assert scu.set(final()).Status == 0x0000
    with servers.running(settings) as pacs, modality(pacs) as scu:
        assert item_status(pacs) == "COMPLETED"
        assert scu.set(final()).Status == 0x0110


def test_the_loop_is_closed_when_the_instances_come_in(serve: Serve) -> None:
    pacs = serve()
    schedule(pacs, item())
    images = [datasets.make_ct(study=STUDY, series=f"{STUDY}.1") for _ in range(3)]
    with modality(pacs) as scu:
        scu.create(creation())
        scu.set(final("COMPLETED", series(*(image.SOPInstanceUID for image in images))))
    store(pacs, images[:2])
    row = pacs.archive.worklist.get("A1")
    assert row is not None
    loop = pacs.archive.mpps.loop_of(row.id, STUDY)
    (step,) = loop.steps
    assert (step.status, step.referenced, step.received, loop.instances_in_study) == ("COMPLETED", 3, 2, 2)
    assert pacs.archive.mpps.show("1.2.3").missing == [images[2].SOPInstanceUID]
    store(pacs, images[2:])
    (step,) = pacs.archive.mpps.loop_of(row.id, STUDY).steps
    assert (step.referenced, step.received) == (3, 3)
    assert list(pacs.archive.mpps.unmatched()) == []


def store(pacs: PacsServer, images: Sequence[Dataset]) -> None:
    with servers.associated(pacs, (CTImageStorage, EXPLICIT), calling="CT1") as association:
        for image in images:
            assert association.send_c_store(image).Status == 0x0000


def test_the_database_fails(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        scu.create(creation())
        with sqlite3.connect(pacs.config.database.path) as connection:
            connection.execute("ALTER TABLE procedure_step RENAME TO away")
        connection.close()
        assert scu.create(creation(), "1.2.4").Status == 0x0213
        assert scu.set(final()).Status == 0x0213
        assert scu.get()[0] == 0x0213
        with sqlite3.connect(pacs.config.database.path) as connection:
            connection.execute("ALTER TABLE away RENAME TO procedure_step")
        connection.close()
        assert scu.set(final()).Status == 0x0000


def test_steps_are_counted(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        scu.create(creation())
        scu.set(data_set(PerformedProcedureStepDescription="x"))
        scu.set(final("DISCONTINUED"))
        scu.set(final("COMPLETED"))
    page = pacs.metrics.render().decode()
    assert 'pacs_procedure_steps_total{status="IN PROGRESS"} 1.0' in page
    assert 'pacs_procedure_steps_total{status="DISCONTINUED"} 1.0' in page
    assert 'status="COMPLETED"' not in page


def test_a_data_set_beyond_measure(serve: Serve) -> None:
    pacs = serve()
    with modality(pacs) as scu:
        attributes = creation()
        attributes.add_new(0x00291001, "UT", "x" * (5 << 20))
        assert scu.create(attributes).Status == 0x0213
        # The association goes on, and 4,000 references are nothing special.
        assert scu.create(creation()).Status == 0x0000
        assert scu.set(final("COMPLETED", series(*(f"1.2.826.0.1.3680043.9.7.{n}" for n in range(4_000))))).Status == 0
    (step,) = pacs.archive.mpps.list()
    assert (step.referenced, step.received) == (4_000, 0)
