"""Queries on the index: matches for C-FIND, instances for retrieve."""

from collections.abc import Collection, Generator, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Integer, Row, Select, String, cast, select
from sqlalchemy.sql import FromClause

from pacs_server.audit.events import Subject
from pacs_server.dicom.attributes import ATTRIBUTES, Attribute
from pacs_server.dicom.identifier import MatchingKey, Query, RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index.database import Database
from pacs_server.index.instances import StoredInstance
from pacs_server.index.matching import column_of, condition_of
from pacs_server.index.models import TABLES, instance, patient, series, study

_CHUNK_ROWS = 256
_STORED = (
    study.c.study_instance_uid, series.c.series_instance_uid, instance.c.sop_instance_uid, instance.c.sop_class_uid,
    instance.c.transfer_syntax_uid, instance.c.path, instance.c.data_set_offset, instance.c.size, instance.c.digest,
    instance.c.version,
)  # fmt: skip
_PLACE = (study.c.id, series.c.series_number, series.c.id, instance.c.instance_number, instance.c.id)


class QueryIndex:
    """Finds what is stored; may be shared by all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, query: Query) -> Generator[tuple[str, ...], None, None]:
        """The text of `query.returns` for every match at the level of the query, in the order of arrival.

        Rows come from the database as they are asked for; closing the iterator gives the connection
        back. Raises IndexUnavailable.
        """
        statement, residual = _find_statement(query)
        width = len(query.returns)
        with (
            self._database.connect() as connection,
            connection.execution_options(yield_per=_CHUNK_ROWS).execute(statement) as result,
        ):
            for row in result:
                if not residual or _matches(residual, row, width):
                    yield tuple(row[:width])

    def select(self, keys: RetrieveKeys) -> list[StoredInstance]:
        """The instances that the keys name, by study, series number and instance number; raises IndexUnavailable."""
        with (
            self._database.connect() as connection,
            connection.execution_options(yield_per=_CHUNK_ROWS).execute(_select_statement(keys)) as result,
        ):
            # Thousands of instances share most of their texts, and the driver makes each of them anew.
            texts: dict[str, str] = {}
            found = [(_place(row), _stored_instance(row, texts)) for row in result]
        found.sort(key=lambda pair: pair[0])
        return [stored for _, stored in found]

    def subjects(self, study_instance_uids: Collection[str]) -> list[Subject]:
        """Whose these studies are, in the order of patients; raises IndexUnavailable."""
        columns = (patient.c.patient_id, patient.c.issuer_of_patient_id, study.c.study_instance_uid)
        statement = (
            select(*columns, study.c.accession_number)
            .select_from(study.join(patient))
            .where(study.c.study_instance_uid.in_(study_instance_uids))
            .order_by(patient.c.id, study.c.id)
        )
        with self._database.connect() as connection:
            return [Subject(*row) for row in connection.execute(statement)]

    def subjects_of(self, sop_instance_uids: Collection[str]) -> list[Subject]:
        """Whose the studies of these instances are, each study once; raises IndexUnavailable."""
        statement = (
            select(study.c.study_instance_uid)
            .select_from(instance.join(series).join(study))
            .where(instance.c.sop_instance_uid.in_(sop_instance_uids))
            .distinct()
        )
        with self._database.connect() as connection:
            studies = list(connection.scalars(statement))
        return self.subjects(studies)


def _find_statement(query: Query) -> tuple[Select[Any], list[MatchingKey]]:
    """The statement, with the columns that the keys left for Python behind those of the answer."""
    conditions = [(key, condition_of(key)) for key in query.keys]
    residual = [key for key, condition in conditions if not condition.exact]
    returned = [ATTRIBUTES[key.tag] for key in query.returns]
    extra = [attribute for key in residual for attribute in key.attributes]
    matched = [attribute for key in query.keys for attribute in key.attributes]
    table = TABLES[query.level]
    columns = [_as_text(attribute) for attribute in returned + extra]
    clauses = [condition.clause for _, condition in conditions if condition.clause is not None]
    statement = (
        select(*columns, table.c.id).select_from(_joined(query.level, returned + matched))
        .where(*clauses).order_by(table.c.id)
    )  # fmt: skip
    return statement, residual


def _as_text(attribute: Attribute) -> ColumnElement[Any]:
    column = column_of(attribute)
    return cast(column, String) if isinstance(column.type, Integer) else column


def _joined(level: Level, attributes: Iterable[Attribute]) -> FromClause:
    """The table of the level with as many of those above it as the attributes need."""
    top = min((attribute.level for attribute in attributes), default=level)
    joined: FromClause = TABLES[level]
    for above in range(level - 1, top - 1, -1):
        joined = joined.join(TABLES[Level(above)])
    return joined


def _matches(residual: Iterable[MatchingKey], row: Row[Any], start: int) -> bool:
    for key in residual:
        end = start + len(key.attributes)
        if not key.matches(*row[start:end]):
            return False
        start = end
    return True


def _select_statement(keys: RetrieveKeys) -> Select[Any]:
    narrowing = (
        (patient.c.patient_id, keys.patient_ids),
        (study.c.study_instance_uid, keys.study_instance_uids),
        (series.c.series_instance_uid, keys.series_instance_uids),
        (instance.c.sop_instance_uid, keys.sop_instance_uids),
    )
    return (
        select(*_STORED, *_PLACE)
        .select_from(instance.join(series).join(study).join(patient))
        .where(*(column.in_(values) for column, values in narrowing if values))
    )


def _stored_instance(row: Row[Any], texts: dict[str, str]) -> StoredInstance:
    """The instance of a row; of equal texts that several instances have, one is kept, in `texts`."""
    study_uid, series_uid, sop_uid, sop_class, transfer_syntax, path, offset, size, digest, version = row[
        : len(_STORED)
    ]
    shared = (texts.setdefault(text, text) for text in (study_uid, series_uid, sop_class, transfer_syntax))
    study_uid, series_uid, sop_class, transfer_syntax = shared
    uids = InstanceUIDs(study_uid, series_uid, sop_uid)
    return StoredInstance(uids, sop_class, transfer_syntax, path, offset, size, digest, version)


def _place(row: Row[Any]) -> tuple[int, ...]:
    study_key, series_number, series_key, instance_number, instance_key = row[len(_STORED) :]
    return study_key, _number(series_number), series_key, _number(instance_number), instance_key


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        # Without a number an entity comes last; IS holds no greater one.
        return 1 << 31
