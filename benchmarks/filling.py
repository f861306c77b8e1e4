"""An index of any size in little time: rows of made-up studies, written in bulk past the server.

Study number n is the same in every run: a hundred instances in four series, two studies to a
patient, names of which some are frequent, dates over ten years, UIDs in no order.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import Any

from sqlalchemy import Connection, Table, func, select, text

from pacs_server.dicom.matching import time_key
from pacs_server.dicom.person_name import fold_name
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index import mark_models, models
from pacs_server.index.database import Database

PER_STUDY = 100
SERIES_PER_STUDY = 4
STATIONS = 5
PER_SERIES = PER_STUDY // SERIES_PER_STUDY
STUDIES_PER_PATIENT = 2
FIRST_DAY = date(2016, 1, 1)
DAYS = 3650
MODALITIES = ("CT", "MR", "CR", "DX", "US", "MG", "XA", "NM")
_WEIGHTS = (30, 25, 20, 10, 10, 3, 1, 1)
BODY_PARTS = ("ABDOMEN", "ANKLE", "BREAST", "CHEST", "ELBOW", "HAND", "HEAD", "HIP", "KNEE", "NECK", "PELVIS", "SPINE")
# How many of a hundred studies have each label.
LABELS = {"research": 20, "teaching": 2}
_SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.2"
_AT = "2026-01-02 03:04:05.000000"
_TRANSFER_SYNTAX_UID = "1.2.840.10008.1.2.1"
_FAMILY_NAMES = tuple(
    "".join(parts)
    for parts in product(
        ("Ba", "De", "Kri", "Mo", "Schu"),
        ("la", "ner", "vis", "ko"),
        ("mann", "sen", "ova", "ti"),
        ("", "y", "s", "er"),
    )
)
_GIVEN_NAMES = tuple(
    "".join(parts) for parts in product(("An", "Be", "Clau", "Da", "Eli", "Jo"), ("na", "dia", "ri"), ("", "s", "n"))
)
# What a few names have besides: other component groups.
_GROUPS = "=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"


@dataclass(frozen=True, slots=True)
class Study:
    """What study number `number` is made of, its patient too."""

    number: int
    uid: str
    patient: int
    patient_id: str
    patient_name: str
    birth_date: str
    date: str
    time: str
    modality: str
    accession_number: str
    study_id: str
    referring_physician_name: str
    body_part: str
    labels: tuple[str, ...]
    reading: str

    @property
    def station(self) -> str:
        """The Station Name of its series."""
        return f"{self.modality}_{self.number % STATIONS + 1}"

    @property
    def received_at(self) -> str:
        """When its first instance was received: in the hour after it was made."""
        return f"{self.date}{self.time[:2]}5959"

    def uids(self, number: int) -> InstanceUIDs:
        """The UIDs of its instance `number`, from 0."""
        series = self.series_uid(number // PER_SERIES)
        return InstanceUIDs(self.uid, series, f"{series}.{number % PER_SERIES + 1}")

    def series_uid(self, number: int) -> str:
        """The UID of its series `number`, from 0."""
        return f"{self.uid}.{number + 1}"


def study(number: int) -> Study:
    """Study `number`, from 1."""
    own, patient = random.Random(number), (number + 1) // STUDIES_PER_PATIENT
    who = random.Random(-patient)
    # The square makes the first names of the list the frequent ones.
    name = f"{_any(_FAMILY_NAMES, who.random() ** 2)}^{_any(_GIVEN_NAMES, who.random())}"
    return Study(
        number,
        f"1.2.826.0.1.3680043.8.498.9.{own.getrandbits(60)}.{number}",
        patient,
        f"{who.randrange(10**7):07}-{patient}",
        name + (_GROUPS if patient % 40 == 0 else ""),
        (date(1930, 1, 1) + timedelta(who.randrange(30_000))).strftime("%Y%m%d"),
        (FIRST_DAY + timedelta(own.randrange(DAYS))).strftime("%Y%m%d"),
        f"{own.randrange(24):02}{own.randrange(60):02}{own.randrange(60):02}",
        own.choices(MODALITIES, _WEIGHTS)[0],
        f"A{own.randrange(10**6):06}{number}",
        f"S{number}",
        f"{_any(_FAMILY_NAMES, own.random())}^{own.choice(_GIVEN_NAMES[:4])}",
        own.choice(BODY_PARTS),
        tuple(label for label, share in LABELS.items() if own.random() * 100 < share),
        own.choices(("read", "review", "unread"), (60, 1, 39))[0],
    )


def fill(database: Database, studies: range, *, instances: int = PER_STUDY, marked: bool = False) -> None:
    """Add the studies of these numbers, of whole patients, to an index; of each only the first `instances`.

    With `marked`, they have labels and states of reading.
    """
    made = [study(number) for number in studies]
    with database.begin() as connection:
        if database.is_sqlite:
            # Room for the pages of indexes that rows in no order touch, in KiB.
            connection.exec_driver_sql("PRAGMA cache_size = -400000")
        _insert(connection, models.patient, map(_patient, made[::STUDIES_PER_PATIENT]))
        _insert(connection, models.study, map(_study, made))
        if marked:
            _insert(connection, mark_models.study_label, (row for each in made for row in _labels(each)))
            _insert(connection, mark_models.study_reading, (_reading(row) for row in made if row.reading != "unread"))
        _insert(connection, models.series, (_series(each, n) for each in made for n in range(SERIES_PER_STUDY)))
        _insert(connection, models.instance, (row for each in made for row in _instances(each, instances)))
        if not database.is_sqlite:
            _restart_sequences(connection)
    if not database.is_sqlite:
        # A server that runs has it done by autovacuum.
        with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as autocommit:
            autocommit.execute(text("VACUUM ANALYZE"))


def _any(names: tuple[str, ...], fraction: float) -> str:
    return names[int(len(names) * fraction)]


def _patient(first: Study) -> dict[str, Any]:
    name = first.patient_name
    counted = {"studies": STUDIES_PER_PATIENT, "series": STUDIES_PER_PATIENT * SERIES_PER_STUDY}
    counted["instances"] = STUDIES_PER_PATIENT * PER_STUDY
    return {
        "id": first.patient, "patient_id": first.patient_id, "patient_name": name, "patient_sex": "O",
        "patient_name_match": fold_name(name), "patient_birth_date": first.birth_date,
        **{f"number_of_patient_related_{what}": count for what, count in counted.items()},
    }  # fmt: skip


def _study(made: Study) -> dict[str, Any]:
    physician = made.referring_physician_name
    return {
        "id": made.number, "patient_fk": made.patient, "study_instance_uid": made.uid, "study_date": made.date,
        "study_time": made.time, "study_time_match": time_key(made.time), "accession_number": made.accession_number,
        "study_id": made.study_id, "study_description": f"{made.modality} {made.body_part.lower()}",
        "referring_physician_name": physician, "referring_physician_name_match": fold_name(physician),
        "modalities_in_study": made.modality, "sop_classes_in_study": _SOP_CLASS_UID,
        "number_of_study_related_series": SERIES_PER_STUDY, "number_of_study_related_instances": PER_STUDY,
        "received_at": made.received_at,
    }  # fmt: skip


def _labels(made: Study) -> list[dict[str, Any]]:
    return [{"study_instance_uid": made.uid, "label": label, "at": _AT, "set_by": "rule"} for label in made.labels]


def _reading(made: Study) -> dict[str, Any]:
    return {"study_instance_uid": made.uid, "state": made.reading, "at": _AT, "set_by": "somebody"}


def _series(made: Study, number: int) -> dict[str, Any]:
    return {
        "id": (made.number - 1) * SERIES_PER_STUDY + number + 1, "study_fk": made.number,
        "series_instance_uid": made.series_uid(number), "modality": made.modality, "series_number": str(number + 1),
        "series_description": f"{made.modality} series {number + 1}", "series_date": made.date,
        "series_time": made.time, "body_part_examined": made.body_part,
        "station_name": made.station, "number_of_series_related_instances": PER_SERIES,
    }  # fmt: skip


def _instances(made: Study, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        key, uid = (made.number - 1) * PER_STUDY + number + 1, made.uids(number).sop
        yield {
            "id": key, "series_fk": (key - 1) // PER_SERIES + 1, "sop_instance_uid": uid,
            "sop_class_uid": _SOP_CLASS_UID, "instance_number": str(number % PER_SERIES + 1),
            "image_type": "ORIGINAL\\PRIMARY\\AXIAL", "content_date": made.date, "content_time": made.time,
            "rows": "512", "columns": "512", "bits_allocated": "16", "transfer_syntax_uid": _TRANSFER_SYNTAX_UID,
            "path": f"{made.uid}/{made.series_uid(number // PER_SERIES)}/{uid}.dcm", "data_set_offset": 352,
            "size": 526_000, "digest": f"{key:064x}", "received_at": _AT,
            "calling_ae": "CT1", "peer": "10.0.0.7",
        }  # fmt: skip


def _insert(connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, all of the same columns, on the driver's own cursor."""
    rows = iter(rows)
    first = next(rows)
    names, values = ", ".join(first), (tuple(row.values()) for row in rows)
    cursor: Any = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(first))})"
        cursor.execute(statement, tuple(first.values()))
        cursor.executemany(statement, values)
        return
    with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        copy.write_row(tuple(first.values()))
        for row in values:
            copy.write_row(row)


def _restart_sequences(connection: Connection) -> None:
    # Ids were given; the next row that the server writes takes the one after the last.
    for table in models.TABLES.values():
        last = select(func.max(table.c.id)).scalar_subquery()
        connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "id"), last)))
