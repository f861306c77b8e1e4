"""Worklist queries as SQL, as far as the columns allow; `WorklistQuery.matches` decides the rest."""

from pacs_server.dicom.matching import Items, Matcher, PersonName, Span, Values
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE
from pacs_server.dicom.worklist_query import WorklistQuery
from pacs_server.index.matching import Clause, all_of, between, name_clause, name_of, one_of
from pacs_server.index.workflow_models import worklist_item, worklist_station

_SCHEDULED_STATION_AE_TITLE, _START_DATE, _MODALITY = 0x00400001, 0x00400002, 0x00080060
_PATIENT_NAME = 0x00100010
_columns, _stations = worklist_item.c, worklist_station.c
# Attributes outside the Scheduled Procedure Step Sequence that have an indexed column.
_IDENTIFIERS = {
    0x00100020: name_of(_columns.patient_id),
    0x00080050: name_of(_columns.accession_number),
    0x0020000D: name_of(_columns.study_instance_uid),
}


def narrowing(query: WorklistQuery) -> list[Clause]:
    """Conditions that every match satisfies, for the keys that have a column."""
    keys = _matchers(query.keys)
    step = _matchers(keys.get(int(SCHEDULED_PROCEDURE_STEP_SEQUENCE, 16)))
    dates = query.start.date if query.start is not None else step.get(_START_DATE)
    days = dates if isinstance(dates, Span) else None
    clauses = _place_and_day(step.get(_SCHEDULED_STATION_AE_TITLE), days)
    if isinstance(modality := step.get(_MODALITY), Values):
        clauses.append(one_of(name_of(_columns.modality), modality.values))
    for tag, column in _IDENTIFIERS.items():
        if isinstance(matcher := keys.get(tag), Values):
            clauses.append(one_of(column, matcher.values))
    if isinstance(name := keys.get(_PATIENT_NAME), PersonName):
        clause = name_clause(worklist_item.name, _columns.patient_name_match.name, name, unknown=False)
        clauses += [] if clause is None else [clause]
    return clauses


def _matchers(matcher: Matcher | None) -> dict[int, Matcher]:
    return {key.tag: key.matcher for key in matcher.keys} if isinstance(matcher, Items) else {}


def _place_and_day(stations: Matcher | None, days: Span | None) -> list[Clause]:
    if isinstance(stations, Values):
        return [at_stations(stations.values, days)]
    # A range that includes all days makes SQLite use the index of shown items.
    lower, upper = ("", "99999999") if days is None else (days.lower, days.upper)
    return [between(name_of(_columns.scheduled_procedure_step_start_date), lower, upper)]


def at_stations(ae_titles: tuple[str, ...], days: Span | None = None) -> Clause:
    """The condition for items of one of these stations, optionally on some days only."""
    # One index has both columns, so few rows are read however long the worklist is.
    clauses = [one_of(name_of(_stations.ae_title), ae_titles)]
    if days is not None:
        clauses.append(between(name_of(_stations.start_date), days.lower, days.upper))
    sql, values = all_of(clauses)
    found = f"SELECT {name_of(_stations.worklist_item_fk)} FROM {worklist_station.name} WHERE {sql}"  # noqa: S608
    return Clause(f"{name_of(_columns.id)} IN ({found})", values)
