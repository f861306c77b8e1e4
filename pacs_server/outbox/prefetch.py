"""The handler of prefetch tasks: asks remotes for earlier studies of a patient, and has them fetched."""

import logging
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Final

from pacs_server.audit.events import Role
from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.config.sections.polling import PrefetchConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.levels import Level
from pacs_server.dicom.worklist import SHOWN
from pacs_server.errors import InvalidIdentifier, PacsError, RemoteError
from pacs_server.index.prefetching import Prior
from pacs_server.index.task_values import NewTask, Priority
from pacs_server.index.worklist import ItemRow
from pacs_server.outbox.handler import Work
from pacs_server.scu.queries import RemoteQueries
from pacs_server.scu.remotes import Remotes, participant
from pacs_server.scu.search import Search
from pacs_server.services.polling import RETURNED, Finder, Named, PollingService, studies_of
from pacs_server.services.prefetching import (
    AGAIN_BEFORE,
    Patient,
    PrefetchService,
    appointment_of,
    chosen,
    keys_of,
    of_patient,
    studies_at,
)
from pacs_server.services.tasks import TaskService
from pacs_server.services.worklist import WorklistService

log = logging.getLogger(__name__)

PREFETCH: Final = "prefetch"
# So many answers of a remote about one patient are looked at.
_MOST: Final = 1000
# After so many failures remotes are asked again this often, in seconds, until the appointment.
_FAILURES: Final = 5
_PAUSE: Final = 600.0


class PrefetchHandler:
    """Prefetches; the payload of a task names an item of the worklist."""

    together: Final = 1

    def __init__(
        self,
        remotes: Remotes,
        prefetching: PrefetchService,
        polling: PollingService,
        worklist: WorklistService,
        auditor: OutgoingAuditor,
        *,
        tasks: TaskService,
    ) -> None:
        self._remotes = remotes
        self._queries = RemoteQueries(remotes, auditor)
        self._prefetching = prefetching
        self._polling = polling
        self._worklist = worklist
        self._tasks = tasks

    def at_once(self, target: str) -> int:
        """Two, so that a remote that hangs does not hold up the patients of others."""
        return 2

    def stop(self) -> None:
        """What is asked at a remote ends with its associations, see `FetchHandler`."""

    def run(self, work: Work) -> None:
        """Ask for the earlier studies of one patient, and once more before the appointment."""
        (task,) = work.tasks
        number, rules = int(task.payload["item"]), self._prefetching.rules()
        patient = self._planned(number)
        if patient is None or not rules:
            self._prefetching.forget(number)
            work.done(task)
            return
        failures = self._ask_all(patient, work)
        if work.is_interrupted():
            return
        self._settle(work, patient, failures)
        # What changes from now on makes the task due. What changed while it ran could not.
        if (self._planned(number), self._prefetching.rules()) != (patient, rules):
            self._tasks.hasten(_key(number))

    def _planned(self, number: int) -> Patient | None:
        """The patient of an item; None if it is planned no more."""
        row = self._worklist.get(str(number))
        is_planned = row is not None and row.id == number and row.item.status in SHOWN
        return _patient(row) if row is not None and is_planned else None

    def _settle(self, work: Work, patient: Patient, failures: list[str]) -> None:
        """Put the task off until the remotes are to be asked again, if they are."""
        (task,) = work.tasks
        left = (patient.appointment - AGAIN_BEFORE - work.now).total_seconds()
        if failures and task.attempts >= _FAILURES and work.now < patient.appointment:
            work.wait(task, "; ".join(failures), _PAUSE)
        elif failures:
            work.failed(task, "; ".join(failures))
        elif left > 0:
            work.wait(task, "asks again before the appointment", left)
        else:
            work.done(task)

    def _ask_all(self, patient: Patient, work: Work) -> list[str]:
        """Ask the remotes of all rules and have fetched what is missing; why some could not be asked."""
        today = datetime.now().astimezone().date()
        here, failures, priors = self._prefetching.here(patient), list[str](), dict[str, Prior]()
        for rule in self._prefetching.rules():
            there: list[tuple[str, Named]] = []
            answers: dict[str, list[DataSet]] = {}
            for remote in rule.from_:
                try:
                    answers[remote] = self._ask(remote, rule, patient, today)
                    there += studies_at(remote, answers[remote])
                except (RemoteError, InvalidIdentifier) as error:
                    failures.append(_told(remote, error))
            unsure: set[str] = set()
            selected = self._selected(rule, chosen(rule, patient, today, here, there), failures, unsure)
            for remote, matches in answers.items():
                uids = {each.study_instance_uid for each in selected if each.remote == remote} - unsure
                wanted = [match for match in matches if text_of(match, "0020000D") in uids]
                if wanted:
                    self._polling.take(self._finder(remote, rule, patient), wanted)
            priors |= {each.study_instance_uid: each for each in selected}
        self._prefetching.answer(patient, list(priors.values()), work.now, "; ".join(dict.fromkeys(failures)))
        for remote in {each.remote for each in priors.values()} - {""}:
            self._polling.take_back(remote)
            self._polling.start_waiting(remote)
        return list(dict.fromkeys(failures))

    def _ask(self, remote: str, rule: PrefetchConfig, patient: Patient, today: date) -> list[DataSet]:
        search = Search(Level.STUDY, keys_of(rule, patient, today), (*RETURNED, "PatientBirthDate"))
        caller = Caller(Door.COMMAND, "", user=patient.cause)
        return of_patient(self._queries.find(caller, remote, search, _MOST), patient)

    def _selected(
        self, rule: PrefetchConfig, fitting: Iterable[Prior], failures: list[str], unsure: set[str]
    ) -> list[Prior]:
        """The newest of them that show one of the body parts of the rule, as many as it wants.

        Those of which the remote could not be asked are wanted as well, and `unsure`: they may be of several patients.
        """
        selected: list[Prior] = []
        for prior in fitting:
            if len(selected) == rule.priors:
                break
            try:
                if prior.remote and not (self._is_of_one(prior) and self._shows(prior, rule.body_parts)):
                    continue
            except (RemoteError, InvalidIdentifier) as error:
                failures.append(_told(prior.remote, error))
                unsure.add(prior.study_instance_uid)
            selected.append(prior)
        return selected

    def _is_of_one(self, prior: Prior) -> bool:
        """Whether the remote has a study under one patient only; an answer about one patient does not tell."""
        keys = {"StudyInstanceUID": prior.study_instance_uid}
        found = studies_of(self._remotes.find(prior.remote, Search(Level.STUDY, keys, ("PatientID",))))
        return all(len(each.patients) == 1 for each in found if each.study_instance_uid == prior.study_instance_uid)

    def _shows(self, prior: Prior, body_parts: str | Sequence[str]) -> bool:
        """Whether a study shows one of these body parts, or does not tell what it shows."""
        if body_parts == "any":
            return True
        keys = {"StudyInstanceUID": prior.study_instance_uid}
        found = self._remotes.find(prior.remote, Search(Level.SERIES, keys, ("SeriesInstanceUID", "BodyPartExamined")))
        told = {text_of(match, "00180015").upper() for match in found} - {""}
        return not told or bool(told & {each.upper() for each in body_parts})

    def _finder(self, remote: str, rule: PrefetchConfig, patient: Patient) -> Finder:
        source = participant(self._remotes.known(remote), Role.SOURCE).ae_title
        priority = Priority(rule.priority)
        return Finder(remote, patient.cause, source, priority, is_cache=rule.cache, deadline=patient.appointment)


def _told(remote: str, error: Exception) -> str:
    """What went wrong at a remote; most errors name it themselves."""
    text = str(error)
    return text if text.startswith(remote) else f"{remote}: {text}"


def look(prefetching: PrefetchService, tasks: TaskService) -> None:
    """Add the tasks for what was planned, or planned otherwise, since the last look."""
    try:
        for item, signature in prefetching.to_ask(datetime.now().astimezone().date()):
            cause = f"prefetch for worklist item {item}"
            tasks.add(NewTask(PREFETCH, cause, payload={"item": item}, dedupe_key=_key(item)))
            tasks.hasten(_key(item))
            prefetching.asked(item, signature)
    except PacsError as error:
        log.warning("worklist not looked at for earlier studies", extra={"reason": str(error)})


def _key(item: int) -> str:
    """What tells the task of an item from all others."""
    return f"{PREFETCH}:{item}"


def _patient(row: ItemRow) -> Patient:
    root, step = row.item.data_set, row.item.step
    return Patient(
        row.id,
        text_of(root, "00100020"),
        text_of(root, "00100030"),
        text_of(step, "00080060"),
        row.item.study_instance_uid,
        appointment_of(text_of(step, "00400002"), text_of(step, "00400003")),
    )
