"""REST: the worklist of a day with what became of each item, and studies without an order."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Caller, Role
from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import Conflict, InvalidRequest, NotFound
from pacs_server.index.mpps import StepRow
from pacs_server.index.prefetching import Priors
from pacs_server.index.worklist import ItemRow
from pacs_server.services.worklist import is_seen
from pacs_server.web.api.attributes import shown_at
from pacs_server.web.api.hidden_numbers import outward
from pacs_server.web.api.operation import Answer, Body, Call, Operation, Parameters, unlimited
from pacs_server.web.api.stored import STUDY_ROOT_FIND
from pacs_server.web.services import WebServices

_TAG: Final = "worklist"
# The SOP class of queries of the worklist, for the audit trail (PS3.4 K.4.1).
_WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"
_MOST: Final = 1000
_TOGETHER: Final = 100
_MOST_UNMATCHED: Final = 200
_STUDY, _COUNT = "StudyInstanceUID", "NumberOfStudyRelatedInstances"
_STUDY_TAG: Final = "0020000D"
_Day = Annotated[str, Field(pattern=r"^[0-9]{8}$", description="A day, YYYYMMDD.")]


class BoardSearch(Parameters):
    """Which day to show."""

    date: _Day


class PriorCounts(Answer):
    """How many earlier studies of the patient are to be here."""

    wanted: int
    here: Annotated[int, Field(description="How many of these are here in full.")]
    last_error: Annotated[str, Field(description="Why a remote could not be asked; empty if all were.")]


class BoardRow(Answer):
    """A worklist item, and how far it has come."""

    id: int
    status: ItemStatus
    start_time: Annotated[str, Field(description="HHMMSS.")]
    patient_name: str
    patient_id: str
    description: Annotated[str, Field(description="Of the procedure step, or of the procedure.")]
    modality: str
    station: Annotated[str, Field(description="The AE title of the station that it is scheduled for.")]
    accession_number: str
    study_instance_uid: str
    images: Annotated[int, Field(description="How many instances of the study are in the archive.")]
    performed: Annotated[int, Field(description="How many instances the performed procedure steps refer to.")]
    received: Annotated[int, Field(description="How many of these are in the archive.")]
    priors: Annotated[
        PriorCounts | None, Field(description="Earlier studies that are fetched for it; null if nobody asked for any.")
    ]


class Board(Answer):
    """The worklist of a day, in the order of the start."""

    items: list[BoardRow]


class UnmatchedRow(Answer):
    """A study that no worklist item is for."""

    study_instance_uid: str
    patient_name: str
    patient_id: str
    description: str
    modalities: list[str]
    accession_number: str
    images: int


class Unmatched(Answer):
    """Studies of a day without a worklist item."""

    items: list[UnmatchedRow]


class Match(Body):
    """What to bring together with a worklist item."""

    study: Annotated[str, Field(max_length=64, description="Study Instance UID.")]


class WorklistBoard:
    """The worklist as people watch it. A limited caller sees what its limits show."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/worklist-board", name="worklist_board", tag=_TAG, role=Role.READER,
                summary="Show the worklist of a day, with what was performed and received of each item.",
                description=f"The {_MOST} items that were added last, if there are more.",
                query=BoardSearch, answer=Board, run=self._board,
            ),
            Operation(
                method="GET", path="/unmatched-studies", name="unmatched_studies", tag=_TAG, role=Role.READER,
                summary="List studies of a day that no worklist item is for.",
                description=f"Of the {_MOST_UNMATCHED} studies of that Study Date that came last.",
                query=BoardSearch, answer=Unmatched, run=self._unmatched,
            ),
            Operation(
                method="POST", path="/worklist/{item}/match", name="match_study", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Say that a study was made for a worklist item: it gets the item's study UID and is completed.",
                parts={"item": "The `id` of a worklist item."}, body=Match, answer=BoardRow, run=self._match,
                errors={
                    404: "There is no such worklist item or study.",
                    409: "They are of different patients, or the item is for another study that is stored.",
                },
            ),
        ]  # fmt: skip

    def _board(self, call: Call[BoardSearch, None]) -> Answer:
        services, scope = self._services, call.caller.scope
        with services.auditor.query(call.caller, _WORKLIST_FIND) as record:
            record.keys({"ScheduledProcedureStepStartDate": call.query.date})
            rows = services.worklist.page(_MOST, date=call.query.date, scope=scope)
            record.matched(len(rows), complete=True)
        found = self._rows(rows, call.caller)
        return Board(items=sorted(found, key=lambda row: (row.start_time, row.id)))

    def _rows(self, rows: Sequence[ItemRow], caller: Caller) -> list[BoardRow]:
        images = self._images({row.item.study_instance_uid for row in rows}, caller)
        steps = self._services.mpps.of_items([row.id for row in rows])
        priors = {} if caller.scope.is_limited else self._services.prefetching.counts([row.id for row in rows])
        return [
            _row(row, images, steps.get(row.id, ()), outward(row.id, caller.scope), priors.get(row.id)) for row in rows
        ]

    def _images(self, uids: Iterable[str], caller: Caller) -> dict[str, int]:
        """How many instances that the caller sees are stored of each of these studies."""
        listing, wanted, found = self._services.listing, sorted(filter(None, uids)), dict[str, int]()
        for start in range(0, len(wanted), _TOGETHER):
            some = wanted[start : start + _TOGETHER]
            query = listing.query(Level.STUDY, {_STUDY: "\\".join(some)}, (_STUDY, _COUNT))
            for row in listing.page(query, 2 * _TOGETHER, None, caller.scope).rows:
                uid = row.texts[_STUDY]
                found[uid] = found.get(uid, 0) + int(row.texts[_COUNT] or 0)
        return found

    def _unmatched(self, call: Call[BoardSearch, None]) -> Answer:
        services, scope = self._services, call.caller.scope
        with services.auditor.query(call.caller, STUDY_ROOT_FIND) as record:
            returned = (each.keyword for each in shown_at(Level.STUDY))
            query = services.listing.query(Level.STUDY, {"StudyDate": call.query.date}, returned)
            record.keys(query.texts)
            rows = services.listing.page(query, _MOST_UNMATCHED, None, scope).rows
            record.matched(len(rows), complete=True)
        # The list has what the caller may see, and the other what nobody has ordered.
        unmatched = {study.study_instance_uid for study in services.mpps.unmatched(call.query.date)}
        return Unmatched(items=[_unmatched(row.texts) for row in rows if row.texts[_STUDY] in unmatched])

    def _match(self, call: Call[Any, Match]) -> Answer:
        unlimited(call)
        services, uid = self._services, call.body.study
        told = call.path["item"]
        row = services.worklist.get(told) if told.isascii() and told.isdecimal() and len(told) < 19 else None
        if row is None or str(row.id) != told or not is_seen(row.item, call.caller.scope):
            raise NotFound("there is no worklist item of this id")
        if not is_uid(uid):
            raise InvalidRequest("study is no UID")
        query = services.listing.query(Level.STUDY, {_STUDY: uid}, (_STUDY, "PatientID", _COUNT))
        studies = services.listing.page(query, 2, None, call.caller.scope).rows
        if not studies:
            raise NotFound("there is no study of this UID")
        patient = text_of(row.item.data_set, "00100020")
        if all(study.texts["PatientID"] != patient for study in studies):
            raise Conflict(
                f"the study is of the patient {studies[0].texts['PatientID'] or 'without an ID'}, and the order of "
                f"{patient}: reassign the study to the right patient first"
            )
        ours = row.item.study_instance_uid
        if ours not in ("", uid) and self._images([ours], call.caller):
            raise Conflict("the order is for another study, which is stored already")
        by = participant_of(call.caller)
        data_set = {**row.item.data_set, _STUDY_TAG: {"vr": "UI", "Value": [uid]}}
        item = replace(row.item, study_instance_uid=uid, data_set=data_set, generated=False)
        services.worklist.put([item], by, unchanged=row)
        services.worklist.set_status([row], ItemStatus.COMPLETED, by)
        changed = services.worklist.get(told)
        assert changed is not None
        return self._rows([changed], call.caller)[0]


def _row(
    row: ItemRow, images: dict[str, int], steps: Sequence[StepRow], number: int, priors: Priors | None
) -> BoardRow:
    item, root, step = row.item, row.item.data_set, row.item.step
    return BoardRow(
        id=number, status=item.status, start_time=text_of(step, "00400003"), patient_name=text_of(root, "00100010"),
        patient_id=text_of(root, "00100020"), description=text_of(step, "00400007") or text_of(root, "00321060"),
        modality=text_of(step, "00080060"), station=text_of(step, "00400001"), accession_number=item.accession_number,
        study_instance_uid=item.study_instance_uid, images=images.get(item.study_instance_uid, 0),
        performed=sum(each.referenced for each in steps), received=sum(each.received for each in steps),
        priors=PriorCounts(wanted=priors.wanted, here=priors.here, last_error=priors.last_error) if priors else None,
    )  # fmt: skip


def _unmatched(study: Any) -> UnmatchedRow:
    return UnmatchedRow(
        study_instance_uid=study[_STUDY], patient_name=study["PatientName"], patient_id=study["PatientID"],
        description=study["StudyDescription"],
        modalities=[each for each in study["ModalitiesInStudy"].split("\\") if each],
        accession_number=study["AccessionNumber"], images=int(study[_COUNT] or 0),
    )  # fmt: skip
