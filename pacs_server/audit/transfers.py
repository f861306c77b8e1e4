"""Instances that arrive from one source, recorded study by study and not one by one (PS3.15 A.5.3.3, A.5.3.7)."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from pacs_server.audit.events import Action, Event, EventID, Outcome, Participant
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.subject import Subject
from pacs_server.kit.recently import Recently

# How many studies of one source are remembered. After that, all of them count as new again.
_MOST_STUDIES: Final = 1000

# Patient ID, its issuer, Study Instance UID.
_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Study:
    subject: Subject
    sop_classes: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    reason: str = ""


class Arrivals:
    """Records what arrives from one source, for one thread.

    One durable event is written before the first instance of a study is stored. One event with the counts is written
    when another study begins or the source ends. If studies take turns, each turn is counted but not written.
    """

    def __init__(
        self,
        recorder: Recorder,
        participants: tuple[Participant, ...],
        ended: EventID,
        *,
        recent: Recently | None = None,
    ) -> None:
        """`ended` is the kind of the events with the counts.

        `recent` holds the studies and sources whose first event has been durable a moment ago, for doors where a source
        comes again and again: then the next one need not wait for the disk.
        """
        self._recent = recent
        self._recorder = recorder
        self._participants = participants
        self._ended = ended
        self._begun: set[_Key] = set()
        self._open: dict[_Key, _Study] = {}
        self._current: _Study | None = None
        self._sop_class_uid = ""

    def begin(self, subject: Subject, sop_class_uid: str) -> None:
        """Record that an instance of this study has arrived, before it is stored. Raises AuditUnavailable."""
        self._sop_class_uid = sop_class_uid
        key = _key(subject)
        if self._current is not None and _key(self._current.subject) == key:
            return
        if key not in self._begun:
            self.end()
            self._write(self._event(EventID.BEGIN_TRANSFERRING, Action.EXECUTE, subject), key)
            if len(self._begun) >= _MOST_STUDIES:
                self._begun.clear()
            self._begun.add(key)
        self._current = self._open.setdefault(key, _Study(subject))

    def _write(self, event: Event, key: _Key) -> None:
        source = (self._participants, key)
        durable = self._recent is None or source not in self._recent
        self._recorder.write(event, durable=durable)
        if durable and self._recent is not None:
            self._recent.add(source)

    def stored(self, outcome: str) -> None:
        """Count the instance that `begin` was called for as stored; `outcome` says in a word how."""
        if self._current is not None:
            self._current.sop_classes[self._sop_class_uid] += 1
            self._current.outcomes[outcome] += 1

    def failed(self, reason: str) -> None:
        """Count an instance that was refused, without a study if no study has begun yet."""
        if self._current is None:
            unknown = Subject("")
            self._current = self._open.setdefault(_key(unknown), _Study(unknown))
        self._current.failed += 1
        self._current.reason = reason

    def end(self) -> None:
        """Write the counts that have not been written yet."""
        for study in self._open.values():
            self._recorder.note(self._counted(study))
        self._open.clear()
        self._current = None

    def _counted(self, study: _Study) -> Event:
        subject = replace(study.subject, sop_classes=dict(study.sop_classes))
        parts = [f"{count} {outcome}" for outcome, count in sorted(study.outcomes.items())]
        if study.failed:
            parts.append(f"{study.failed} failed, the last one: {study.reason}")
        event = self._event(self._ended, Action.CREATE, subject)
        return replace(event, outcome=outcome_of(study.outcomes.total(), study.failed), detail=", ".join(parts))

    def _event(self, event_id: EventID, action: Action, subject: Subject) -> Event:
        known = (subject,) if subject.study_instance_uid else ()
        return Event(event_id, action, self._participants, subjects=known)


def _key(subject: Subject) -> _Key:
    return subject.patient_id, subject.issuer_of_patient_id, subject.study_instance_uid


def outcome_of(done: int, failed: int) -> Outcome:
    """The outcome of an event of which so many parts were done and failed."""
    if not failed:
        return Outcome.SUCCESS
    return Outcome.MINOR_FAILURE if done else Outcome.SERIOUS_FAILURE
