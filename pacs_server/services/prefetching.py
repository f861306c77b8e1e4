"""Prefetching: which earlier studies of a patient are to be here when an examination of the patient is planned."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from pacs_server.config.sections.polling import PrefetchConfig
from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.levels import Level
from pacs_server.index.prefetching import Planned, PrefetchIndex, Prior, Priors
from pacs_server.services.listing import ListingService
from pacs_server.services.polling import Named, studies_of

# So many planned examinations are looked at, the next ones first.
_MOST: Final = 2000
# What is asked for again so long before an appointment, in case it was not there when it was first asked for.
AGAIN_BEFORE: Final = timedelta(hours=12)
_LEAST_BIRTH_DATE: Final = 8


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose earlier studies are looked for, and for which examination."""

    item_id: int
    patient_id: str
    birth_date: str
    modality: str
    study_instance_uid: str
    appointment: datetime

    @property
    def cause(self) -> str:
        """What is said to have caused it."""
        return f"prefetch for worklist item {self.item_id}"


class PrefetchService:
    """Chooses earlier studies. Thread-safe; everything raises IndexUnavailable."""

    def __init__(
        self, index: PrefetchIndex, listing: ListingService, rules: Callable[[], Sequence[PrefetchConfig]]
    ) -> None:
        """`rules` are those in force now."""
        self._index = index
        self._listing = listing
        self.rules = rules

    def to_ask(self, today: date) -> list[tuple[int, str]]:
        """The ids of the items for which remotes are to be asked, each with what `asked` is to be told of it."""
        rules = self.rules()
        if not rules:
            return []
        asked = hashlib.sha256("\n".join(each.model_dump_json() for each in rules).encode()).hexdigest()[:16]
        planned = self._index.planned(f"{today:%Y%m%d}", _MOST)
        signed = ((each, _signature(each, asked)) for each in planned)
        return [(each.item_id, signature) for each, signature in signed if signature != each.asked_for]

    def asked(self, item_id: int, signature: str) -> None:
        """Keep that remotes are asked for an item, so that it is not given again until something of it changes."""
        self._index.ask(item_id, signature)

    def here(self, patient: Patient) -> list[Named]:
        """The earlier studies of a patient that are here."""
        keys = ("StudyInstanceUID", "PatientID", "PatientBirthDate", "StudyDate", "ModalitiesInStudy")
        counts = "NumberOfStudyRelatedInstances"
        query = self._listing.query(Level.STUDY, {"PatientID": patient.patient_id}, (*keys, counts))
        rows = (row.texts for row in self._listing.page(query, 500, None).rows)
        return [
            Named(row["StudyInstanceUID"], (row["PatientID"],), row["StudyDate"], row["ModalitiesInStudy"],
                  None, int(row[counts] or 0))
            for row in rows
            if row["PatientID"] == patient.patient_id and _is_one(patient, row["PatientBirthDate"])
        ]  # fmt: skip

    def answer(self, patient: Patient, priors: Sequence[Prior], now: datetime, last_error: str) -> None:
        """Keep what was chosen for an item."""
        self._index.answer(patient.item_id, priors, now, last_error)

    def forget(self, item_id: int) -> None:
        """Forget an item that is planned no more."""
        self._index.forget(item_id)

    def counts(self, items: Collection[int]) -> dict[int, Priors]:
        """How many earlier studies are wanted and here, by item."""
        return self._index.counts(items)

    def priors(self, item_id: int) -> list[Prior]:
        """The earlier studies that were chosen for an item, the newest first."""
        return self._index.priors(item_id)


def keys_of(rule: PrefetchConfig, patient: Patient, today: date) -> dict[str, str]:
    """What to ask a remote for."""
    first = today - timedelta(seconds=rule.within)
    wanted = _modalities(rule, patient)
    keys = {"PatientID": patient.patient_id, "StudyDate": f"{first:%Y%m%d}-{today:%Y%m%d}"}
    # Several values of ModalitiesInStudy mean one of them (PS3.4 C.2.2.2.8), which few remotes know.
    return keys | ({"ModalitiesInStudy": wanted[0]} if len(wanted) == 1 else {})


def of_patient(matches: Iterable[DataSet], patient: Patient) -> list[DataSet]:
    """Those matches that are of the patient, as far as they tell: an ID of another issuer may be the same."""
    return [
        match
        for match in matches
        if text_of(match, "00100020") == patient.patient_id and _is_one(patient, text_of(match, "00100030"))
    ]


def chosen(
    rule: PrefetchConfig, patient: Patient, today: date, here: Sequence[Named], there: Sequence[tuple[str, Named]]
) -> list[Prior]:
    """The newest earlier studies that a rule wants; `there` are those of remotes, each with the name of its remote.

    A study that is here in full counts as here, one of which a remote has more is fetched from that.
    """
    first = f"{today - timedelta(seconds=rule.within):%Y%m%d}"
    counts = {each.study_instance_uid: each.instances or 0 for each in here}
    found = {each.study_instance_uid: _prior("", each) for each in here}
    for remote, each in there:
        known = counts.get(each.study_instance_uid, 0)
        if each.study_instance_uid not in found or (each.instances is not None and each.instances > known):
            found[each.study_instance_uid] = _prior(remote, each)
            counts[each.study_instance_uid] = max(known, each.instances or 0)
    wanted = set(_modalities(rule, patient))
    fitting = (
        each
        for each in found.values()
        if each.study_instance_uid != patient.study_instance_uid
        and first <= each.study_date <= f"{today:%Y%m%d}"
        and (not wanted or not each.modalities or wanted & set(each.modalities.split("\\")))
    )
    return sorted(fitting, key=lambda each: (each.study_date, each.study_instance_uid), reverse=True)


def appointment_of(day: str, time: str) -> datetime:
    """The moment of an appointment, in UTC; the beginning of the day if the time says nothing."""
    try:
        whole = datetime.strptime(day, "%Y%m%d")
        digits = (time.partition(".")[0] + "000000")[:6]
        try:
            return datetime.strptime(day + digits, "%Y%m%d%H%M%S").astimezone(UTC)
        except ValueError:
            return whole.astimezone(UTC)
    except (ValueError, OverflowError):
        # No day that has one: nothing is waited for.
        return datetime(1970, 1, 1, tzinfo=UTC)


def studies_at(remote: str, matches: Sequence[DataSet]) -> list[tuple[str, Named]]:
    """The studies in the answer of a remote, without those of several patients."""
    return [(remote, each) for each in studies_of(matches) if len(each.patients) == 1]


def _signature(planned: Planned, rules: str) -> str:
    return "\\".join((planned.patient_id, planned.modality, planned.date, planned.time, rules))


def _modalities(rule: PrefetchConfig, patient: Patient) -> tuple[str, ...]:
    if rule.modalities == "any":
        return ()
    if rule.modalities == "same":
        return (patient.modality,) if patient.modality else ()
    return tuple(rule.modalities)


def _is_one(patient: Patient, birth_date: str) -> bool:
    """Whether a birth date says nothing against it that this is the patient."""
    both = len(birth_date) >= _LEAST_BIRTH_DATE and len(patient.birth_date) >= _LEAST_BIRTH_DATE
    return not both or birth_date == patient.birth_date


def _prior(remote: str, named: Named) -> Prior:
    return Prior(named.study_instance_uid, remote, named.study_date, named.modalities)
