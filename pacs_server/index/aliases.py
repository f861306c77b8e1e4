"""Aliases of patients: they send later arrivals where operators decided that the patient's studies belong."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, insert, select, update

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.levels import Level
from pacs_server.dicom.same_patient import Identity, combined_name, compatible
from pacs_server.index.models import patient_alias

_ATTRIBUTES = tuple(attribute.column for attribute in at_level(Level.PATIENT))
# The columns that `Alias.of` reads.
COLUMNS = tuple(patient_alias.c[name] for name in ("id", "study_instance_uid", "source", "target", "system"))


@dataclass(slots=True, eq=False)
class Alias:
    """A decision: instances of `source`, of one study or of all if that is empty, are the target's.

    Attributes of both are by column; `system` is what the archive was called that made it so.
    """

    key: int
    study: str
    source: dict[str, str]
    target: Mapping[str, str]
    system: str

    @classmethod
    def of(cls, row: Iterable[Any]) -> Self:
        """The alias in a row of `COLUMNS`."""
        key, study, source, target, system = row
        return cls(key, study, json.loads(source), json.loads(target), system)

    def about(self, identity: Identity) -> bool:
        """Whether the decision may be about the patient of that identity."""
        return compatible(Identity.of(self.source), identity)


def add_alias(
    connection: Connection, uid: str, source: Mapping[str, str], target: Mapping[str, str], system: str, *, joined: bool
) -> Alias:
    """Store an alias: instances of the source patient go to the target from now on; an empty `uid` is all studies."""
    source, target = known_attributes(source), known_attributes(target)
    values = {
        "patient_id": source.get("patient_id", ""),
        "issuer_of_patient_id": source.get("issuer_of_patient_id", ""),
        "study_instance_uid": uid,
        "source": as_json(source),
        "target": as_json(target),
        "system": system,
        "joined": joined,
    }
    key = connection.execute(insert(patient_alias).values(values).returning(patient_alias.c.id)).scalar_one()
    return Alias(key, uid, source, target, system)


def aliases_of(connection: Connection, identity: Identity, uid: str) -> list[Alias]:
    """The aliases that may be about a patient, for one study and for all."""
    columns = patient_alias.c
    rows = connection.execute(
        select(*COLUMNS).where(
            columns.patient_id == identity.patient_id,
            columns.issuer_of_patient_id == identity.issuer_of_patient_id,
            columns.study_instance_uid.in_(("", uid)),
        )
    )
    return [alias for alias in map(Alias.of, rows) if alias.about(identity)]


def complete(connection: Connection, alias: Alias, sent: Mapping[str, str]) -> None:
    """Add attributes of the source patient that were unknown when the decision was made.

    A patient who contradicts them is from then on another person.
    """
    known = alias.source
    more = {name: sent[name] for name in _ATTRIBUTES if not known.get(name) and sent.get(name)}
    name = combined_name(known.get("patient_name", ""), sent.get("patient_name", ""))
    alias.source = known_attributes(known | more | {"patient_name": name})
    if alias.source != known:
        values = {"source": as_json(alias.source)}
        connection.execute(update(patient_alias).where(patient_alias.c.id == alias.key).values(values))


def mark_joined(connection: Connection, uid: str, target: Identity) -> None:
    """Mark aliases whose study was joined with a study of the target: it cannot be moved back on its own."""
    columns = patient_alias.c
    rows = select(columns.id, columns.target).where(columns.study_instance_uid == uid, columns.joined.is_(False))
    keys = [key for key, text in connection.execute(rows) if compatible(Identity.of(json.loads(text)), target)]
    if keys:
        connection.execute(update(patient_alias).where(columns.id.in_(keys)).values(joined=True))


def known_attributes(values: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of a patient that are not empty, by column."""
    return {name: values[name] for name in _ATTRIBUTES if values.get(name)}


def as_json(value: object) -> str:
    """A value as JSON, as the index stores it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
