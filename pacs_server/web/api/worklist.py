"""REST: worklist items."""

import hashlib
import re
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Role
from pacs_server.dicom.json_input import checked_data_set
from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.scope import Scope
from pacs_server.dicom.worklist import ItemStatus, WorklistItem, items_of_order
from pacs_server.errors import InvalidWorklistItem, WorklistItemChanged, WorklistItemNotFound
from pacs_server.index.worklist import ItemRow
from pacs_server.intake.worklist_fields import FIELDS, order_of_fields
from pacs_server.services.worklist import is_seen
from pacs_server.web.api.binding import paged
from pacs_server.web.api.hidden_numbers import inward, outward
from pacs_server.web.api.operation import Answer, Body, Call, Operation, Page, Paging, Reply, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "worklist"
_SOURCE: Final = "rest"
# The SOP class of queries of the worklist, for the audit trail (PS3.4 K.4.1).
_WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"
_PARTS: Final = {"item": "The `id` of a worklist item."}
_GONE: Final = {404: "There is no such worklist item."}
_PATIENT_ID: Final = "00100020"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_DATE: Final = r"^[0-9]{8}$"


class Item(Answer):
    """A worklist item: one scheduled procedure step."""

    id: int
    status: ItemStatus
    source: Annotated[str, Field(description="Where it came from: command line, rest, hl7, json, wl or csv.")]
    accession_number: str
    requested_procedure_id: str
    scheduled_procedure_step_id: str
    study_instance_uid: str
    created_at: datetime
    updated_at: datetime
    data_set: Annotated[dict[str, Any], Field(description="All its attributes in the DICOM JSON Model (PS3.18 F.2).")]


class ItemSearch(Paging):
    """Which items to list."""

    status: Annotated[ItemStatus | None, Field(description="Only those of this status.")] = None
    date: Annotated[str | None, Field(pattern=_DATE, description="Only those that start on this day, YYYYMMDD.")] = None
    station: Annotated[str | None, Field(description="Only those for the station of this AE title.")] = None
    accession_number: Annotated[str | None, Field(description="Only those of this accession number.")] = None
    patient_id: Annotated[str | None, Field(description="Only those of this Patient ID.")] = None
    study_instance_uid: Annotated[str | None, Field(description="Only those of this study.")] = None


class Order(Body):
    """An order: either `fields` as people write them, or `data_set` in the DICOM JSON Model."""

    fields: Annotated[
        dict[str, str] | None,
        Field(description=f"Texts by keyword, of {', '.join(FIELDS)}. Codes are value^scheme^meaning."),
    ] = None
    data_set: Annotated[
        dict[str, Any] | None,
        Field(description="The order with one Scheduled Procedure Step Sequence item a step (PS3.18 F.2)."),
    ] = None


class PutItems(Answer):
    """What became of an order: the items that were added or updated."""

    added: int
    updated: int
    items: list[Item]


class Worklist:
    """The resource worklist."""

    def __init__(self, services: WebServices) -> None:
        self._worklist = services.worklist
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/worklist", name="list_worklist_items", tag=_TAG, role=Role.READER,
                summary="List worklist items, the last added first.",
                query=ItemSearch, answer=Page[Item], run=self._list,
            ),
            Operation(
                method="POST", path="/worklist", name="add_worklist_items", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Add the items of an order; items with the same identifiers are updated.",
                description="Accession number, procedure id and step id together identify an item.",
                body=Order, answer=PutItems, status=201, run=self._add,
            ),
            Operation(
                method="GET", path="/worklist/{item}", name="show_worklist_item", tag=_TAG, role=Role.READER,
                summary="Show a worklist item; ETag names its state.", parts=_PARTS, answer=Item, run=self._show,
                errors=_GONE,
            ),
            Operation(
                method="PUT", path="/worklist/{item}", name="replace_worklist_item", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Replace the attributes of an item; its identifiers and status stay.",
                description="With If-Match and its ETag, nothing is done if somebody has changed the item since.",
                parts=_PARTS, body=Order, answer=Item, run=self._replace,
                errors=_GONE | {412: "Somebody has changed the item meanwhile: read it again."},
            ),
            Operation(
                method="POST", path="/worklist/{item}/cancel", name="cancel_worklist_item", tag=_TAG,
                role=Role.CONTRIBUTOR, summary="Take an item off the worklist, and keep it as cancelled.",
                parts=_PARTS, answer=Item, run=self._cancel, errors=_GONE,
            ),
        ]  # fmt: skip

    def _list(self, call: Call[ItemSearch, None]) -> Answer:
        query = call.query
        with self._auditor.query(call.caller, _WORKLIST_FIND) as record:
            record.keys(_keys(query))
            rows = self._worklist.page(
                query.limit + 1, query.after, status=query.status, date=query.date, station=query.station,
                accession_number=query.accession_number, patient_id=query.patient_id,
                study_instance_uid=query.study_instance_uid, scope=call.caller.scope,
            )  # fmt: skip
            shown, following = paged(call, rows)
            record.matched(len(shown), complete=True)
        return Page[Item](items=[_item(row, call.caller.scope) for row in shown], next=following)

    def _add(self, call: Call[Any, Order]) -> Answer:
        unlimited(call)
        items = items_of_order(_order(call.body), _SOURCE)
        result = self._worklist.put(items, participant_of(call.caller))
        return PutItems(
            added=result.added,
            updated=result.updated,
            items=[_item(self._put(item), call.caller.scope) for item in items],
        )

    def _show(self, call: Call[Any, None]) -> Reply:
        with self._auditor.query(call.caller, _WORKLIST_FIND) as record:
            row = self._found(call)
            record.keys(_identity(row.item))
            record.matched(1, complete=True)
        return _reply(row, call.caller.scope)

    def _replace(self, call: Call[Any, Order]) -> Reply:
        unlimited(call)
        row = self._found(call)
        if call.if_match not in (None, "*", _etag(row, call.caller.scope)):
            raise WorklistItemChanged(f"worklist item {row.id} is not as you have read it: read it again")
        items = items_of_order(_order(call.body), row.item.source)
        if [item.identity for item in items] != [row.item.identity]:
            raise InvalidWorklistItem("the identifiers of an item cannot be changed; add another item and cancel this")
        self._worklist.put(items, participant_of(call.caller), unchanged=row)
        return _reply(self._found(call), call.caller.scope)

    def _cancel(self, call: Call[Any, None]) -> Reply:
        unlimited(call)
        row = self._found(call)
        self._worklist.set_status([row], ItemStatus.CANCELLED, participant_of(call.caller))
        return _reply(self._found(call), call.caller.scope)

    def _found(self, call: Call[Any, Any]) -> ItemRow:
        scope, told = call.caller.scope, call.path["item"]
        number = inward(int(told), scope) if _NUMBER.fullmatch(told) else None
        row = None if number is None else self._worklist.get(str(number))
        if row is None or row.id != number or not is_seen(row.item, scope):
            raise WorklistItemNotFound("there is no worklist item of this id")
        return row

    def _put(self, item: WorklistItem) -> ItemRow:
        found = self._worklist.list(accession_number=item.accession_number)
        return next(row for row in found if row.item.identity == item.identity)


def _keys(query: ItemSearch) -> dict[str, str]:
    """What is searched by, as the audit trail tells it."""
    keys = {
        "PatientID": query.patient_id, "AccessionNumber": query.accession_number,
        "ScheduledStationAETitle": query.station, "ScheduledProcedureStepStartDate": query.date,
        "ScheduledProcedureStepStatus": query.status, "StudyInstanceUID": query.study_instance_uid,
    }  # fmt: skip
    return {keyword: str(value) for keyword, value in keys.items() if value is not None}


def _identity(item: WorklistItem) -> dict[str, str]:
    """Which item it is, and whose, as the audit trail tells it."""
    keys = {
        "PatientID": text_of(item.data_set, _PATIENT_ID), "AccessionNumber": item.accession_number,
        "StudyInstanceUID": item.study_instance_uid, "RequestedProcedureID": item.requested_procedure_id,
        "ScheduledProcedureStepID": item.scheduled_procedure_step_id,
    }  # fmt: skip
    return {keyword: value for keyword, value in keys.items() if value}


def _order(body: Order) -> dict[str, Any]:
    if (body.fields is None) == (body.data_set is None):
        raise InvalidWorklistItem("send either fields or data_set")
    if body.data_set is not None:
        try:
            return checked_data_set(body.data_set)
        except ValueError as error:
            raise InvalidWorklistItem(f"data_set is not as PS3.18 F.2 wants it: {error}") from None
    fields = body.fields or {}
    unknown = next((name for name in fields if name not in FIELDS), None)
    if unknown is not None:
        raise InvalidWorklistItem(f"there is no field {unknown[:64]!r}; send data_set for other attributes")
    return order_of_fields(fields, "fields")


def _item(row: ItemRow, scope: Scope) -> Item:
    item = row.item
    return Item(
        id=outward(row.id, scope), status=item.status, source=item.source, accession_number=item.accession_number,
        requested_procedure_id=item.requested_procedure_id,
        scheduled_procedure_step_id=item.scheduled_procedure_step_id, study_instance_uid=item.study_instance_uid,
        created_at=row.created_at, updated_at=row.updated_at, data_set=dict(item.data_set),
    )  # fmt: skip


def _reply(row: ItemRow, scope: Scope) -> Reply:
    return Reply(_item(row, scope), {"ETag": _etag(row, scope)})


def _etag(row: ItemRow, scope: Scope) -> str:
    told = f"{outward(row.id, scope)} {row.item.status} {row.updated_at.isoformat()}"
    return f'"{hashlib.sha256(told.encode()).hexdigest()[:16]}"'
