"""Who looks at what is recorded once a minute, before anything of it is sent; validators differ with what counts."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from starlette.requests import Request
from trails import Kept, recorder_of

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import EventID
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import Scope
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import AuditUnavailable, NotFound
from pacs_server.index.instances import StoredInstance
from pacs_server.web.caller import KEY
from pacs_server.web.dicomweb import viewing
from pacs_server.web.dicomweb.viewing import Views, entity_tag, keys_of, select

ANN, BEN = (Caller(Door.WEB, "10.0.0.1", user=user) for user in ("ann", "ben"))
SENT = (EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED)


class Retrieve:
    def subjects(self, instances: Sequence[StoredInstance]) -> list[Subject]:
        return [Subject("P1", "", instance.uids.study, "A1") for instance in instances]


def instance(sop: str) -> StoredInstance:
    return StoredInstance(InstanceUIDs("1.1", "2", sop), "1.2.840.1", "1.2.840.10008.1.2.1", "p", 0, 9, sop * 64, 0)


@pytest.fixture
def trail() -> Kept:
    return Kept()


def views_of(trail: Kept, now: list[float]) -> Views:
    return Views(Auditor(recorder_of(trail)), Retrieve(), clock=lambda: now[0])  # type: ignore[arg-type]


def test_frame_after_frame_is_one_view_for_a_minute(trail: Kept) -> None:
    now = [100.0]
    views = views_of(trail, now)
    for _ in range(300):
        views.record(ANN, instance("1"))
    begin, end = trail.of(*SENT)
    assert trail.durable == 1
    assert (begin.event_id, end.event_id) == SENT
    assert [subject.patient_id for subject in begin.subjects] == ["P1"]
    assert any(each.user_id == "ann" and each.address == "10.0.0.1" for each in begin.participants)
    now[0] += 59
    views.record(ANN, instance("1"))
    assert len(trail.of(*SENT)) == 2
    now[0] += 1
    views.record(ANN, instance("1"))
    assert len(trail.of(*SENT)) == 4


def test_every_caller_and_every_instance_is_recorded(trail: Kept) -> None:
    views = views_of(trail, [0.0])
    for caller in (ANN, BEN, Caller(Door.WEB, "10.0.0.2", user="ann")):
        for sop in ("1", "2"):
            views.record(caller, instance(sop))
    assert len(trail.of(*SENT)) == 12


def test_nothing_is_sent_that_cannot_be_recorded(trail: Kept) -> None:
    views = views_of(trail, [0.0])
    trail.full = True
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            views.record(ANN, instance("1"))
    trail.full = False
    views.record(ANN, instance("1"))
    assert len(trail.of(*SENT)) == 2


def test_the_memory_of_views_is_bounded(trail: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewing, "_MOST_VIEWS", 3)
    views = views_of(trail, [0.0])
    for sop in ("1", "2", "3", "4", "4", "1"):
        views.record(ANN, instance(sop))
    assert len(trail.of(*SENT)) == 10  # only the second view of 4 was still known


def test_the_first_view_of_a_study_is_durable(trail: Kept) -> None:
    now = [0.0]
    views = views_of(trail, now)
    for sop in ("1", "2", "3"):
        views.record(ANN, instance(sop))
    assert (trail.durable, len(trail.of(*SENT))) == (1, 6)
    views.record(BEN, instance("1"))
    assert trail.durable == 2
    now[0] += 60
    views.record(ANN, instance("4"))
    assert trail.durable == 3


def test_validators_differ_with_whatever_counts() -> None:
    tags = {entity_tag(instance(sop), *rest) for sop in ("1", "2") for rest in ([1], [2], [1, "x"], ["1"])}
    assert len(tags) == 8
    assert entity_tag(instance("1"), [1, 2]) == entity_tag(instance("1"), [1, 2])


def test_the_keys_of_a_path() -> None:
    assert keys_of({"study": "1"}).level is Level.STUDY
    assert keys_of({"study": "1", "series": "2"}).series_instance_uids == ("2",)
    keys = keys_of({"study": "1", "series": "2", "instance": "3", "frames": "1"})
    assert (keys.level, keys.study_instance_uids, keys.sop_instance_uids) == (Level.IMAGE, ("1",), ("3",))


def test_head_is_no_view_and_other_methods_are(trail: Kept) -> None:
    views = views_of(trail, [0.0])
    for method, events in (("HEAD", 0), ("GET", 2)):
        views.recorder(Request({"type": "http", "method": method, KEY: ANN}))(instance("1"))
        assert len(trail.of(*SENT)) == events


def test_a_caller_with_limits_selects_within_them() -> None:
    asked: list[Scope] = []

    class Limited:
        def select(self, keys: RetrieveKeys, scope: Scope) -> list[StoredInstance]:
            asked.append(scope)
            return []

    caller = replace(ANN, scope=Scope(modalities=("CT",)))
    with pytest.raises(NotFound):
        select(Limited(), {"study": "1"}, caller)  # type: ignore[arg-type]
    assert asked == [caller.scope]
