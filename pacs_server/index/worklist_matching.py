"""Worklist queries as SQL: what the columns can tell; `WorklistQuery.matches` decides the rest."""

from sqlalchemy import ColumnElement, select

from pacs_server.dicom.matching import Items, Matcher, PersonName, Span, Values
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE
from pacs_server.dicom.worklist_query import WorklistQuery
from pacs_server.index.matching import between, name_clause
from pacs_server.index.workflow_models import worklist_item, worklist_station

Clause = ColumnElement[bool]

_SCHEDULED_STATION_AE_TITLE, _START_DATE, _MODALITY = 0x00400001, 0x00400002, 0x00080060
_PATIENT_NAME = 0x00100010
_columns = worklist_item.c
# Attributes outside the step that have a column with an index.
_IDENTIFIERS = {
    0x00100020: _columns.patient_id,
    0x00080050: _columns.accession_number,
    0x0020000D: _columns.study_instance_uid,
}


def narrowing(query: WorklistQuery) -> list[Clause]:
    """Conditions that every match satisfies, for as many keys as the columns can tell."""
    keys = _matchers(query.keys)
    step = _matchers(keys.get(int(SCHEDULED_PROCEDURE_STEP_SEQUENCE, 16)))
    dates = query.start.date if query.start is not None else step.get(_START_DATE)
    days = dates if isinstance(dates, Span) else None
    clauses = _place_and_day(step.get(_SCHEDULED_STATION_AE_TITLE), days)
    if isinstance(modality := step.get(_MODALITY), Values):
        clauses.append(_columns.modality.in_(modality.values))
    for tag, column in _IDENTIFIERS.items():
        if isinstance(matcher := keys.get(tag), Values):
            clauses.append(column.in_(matcher.values))
    if isinstance(name := keys.get(_PATIENT_NAME), PersonName):
        clause = name_clause(_columns.patient_name_match, name, unknown=False)
        clauses += [] if clause is None else [clause]
    return clauses


def _matchers(matcher: Matcher | None) -> dict[int, Matcher]:
    return {key.tag: key.matcher for key in matcher.keys} if isinstance(matcher, Items) else {}


def _place_and_day(stations: Matcher | None, days: Span | None) -> list[Clause]:
    if not isinstance(stations, Values):
        return [] if days is None else [between(_columns.scheduled_procedure_step_start_date, days.lower, days.upper)]
    # One index has both, so few rows are looked at however long the worklist is.
    at_station = select(worklist_station.c.worklist_item_fk).where(worklist_station.c.ae_title.in_(stations.values))
    if days is not None:
        at_station = at_station.where(between(worklist_station.c.start_date, days.lower, days.upper))
    return [_columns.id.in_(at_station)]
