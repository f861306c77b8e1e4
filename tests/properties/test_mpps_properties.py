"""The life of steps and their items: the pure rules and the service on SQLite, held against a model of a few lines."""

import tempfile
from pathlib import Path
from typing import Any

import examples
import pytest
import schema
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pacs_server.dicom import mpps
from pacs_server.dicom.worklist import ItemStatus, WorklistItem
from pacs_server.errors import AttributeRefused, DuplicateInstance, InstanceNotFound, ProcedureStepClosed
from pacs_server.index.database import Database
from pacs_server.index.mpps import ProcedureStepIndex
from pacs_server.index.worklist import WorklistIndex
from pacs_server.services.mpps import MPPSService

JSON = dict[str, Any]
UIDS, ITEMS = ("1.1", "1.2", "1.3"), ("S1", "S2")
FINAL = ("COMPLETED", "DISCONTINUED")
STATUS, SERIES = "00400252", "00400340"
some_statuses = st.sampled_from(["IN PROGRESS", *FINAL, "DONE", ""])


def text(value: str, vr: str = "SH") -> JSON:
    return {"vr": vr, "Value": [value]} if value else {"vr": vr}


def step(items: list[str], status: str) -> JSON:
    scheduled = [{"0020000D": text("9.1", "UI"), "00400009": text(item)} for item in items]
    return {
        "00400270": {"vr": "SQ", "Value": scheduled}, STATUS: text(status, "CS"), "00400253": text("P"),
        "00400241": text("CT1", "AE"), "00400244": text("20250301", "DA"), "00400245": text("10", "TM"),
        "00080060": text("CT", "CS"), "00400250": text("20250301", "DA"), "00400251": text("11", "TM"),
    }  # fmt: skip


def performed(count: int) -> JSON:
    series = {"00181030": text("Head", "LO"), "0020000E": text("1.9", "UI")}
    return {"vr": "SQ", "Value": [series] * count} if count else {"vr": "SQ"}


def expected_of_set(before: JSON, status: str, count: int) -> type[Exception] | None:
    """What an N-SET of this status and so many series has to come to."""
    if before[STATUS] != text("IN PROGRESS", "CS"):
        return ProcedureStepClosed
    if status not in ("IN PROGRESS", *FINAL) or (status in FINAL and not count):
        return AttributeRefused
    return None


class PureSteps(RuleBasedStateMachine):
    """One step, by the pure rules alone."""

    def __init__(self) -> None:
        super().__init__()
        self.step = mpps.created(step(["S1"], "IN PROGRESS"))
        self.ended = ""

    @rule(status=some_statuses, count=st.integers(0, 2))
    def set(self, status: str, count: int) -> None:
        expected = expected_of_set(self.step, status, count)
        changes = {STATUS: text(status, "CS"), SERIES: performed(count)}
        if expected is not None:
            with pytest.raises(expected):
                mpps.updated(self.step, changes)
            return
        self.step = mpps.updated(self.step, changes)
        self.ended = status if status in FINAL else ""
        assert self.step[SERIES] == performed(count)

    @rule(tag=st.sampled_from(["00100010", "00400270", "00080060"]))
    def set_what_may_not_be_set(self, tag: str) -> None:
        with pytest.raises((AttributeRefused, ProcedureStepClosed)):
            mpps.updated(self.step, {tag: text("other")})

    @invariant()
    def the_end_is_the_end(self) -> None:
        assert self.step[STATUS] == text(self.ended or "IN PROGRESS", "CS")
        assert not self.ended or self.step[SERIES].get("Value")


class Service(RuleBasedStateMachine):
    """A few steps and items in a database that is closed and opened again at times."""

    def __init__(self) -> None:
        super().__init__()
        # Not pytest's directory: each run needs a new one.
        self.directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.model: dict[str, JSON] = {}
        self.tied: dict[str, list[str]] = {}
        self.returns = True
        self.open()
        self.worklist.put([self.item(name) for name in ITEMS])

    def open(self) -> None:
        path = Path(self.directory.name) / "pacs.db"
        schema.prepare(path)
        self.database = Database(f"sqlite:///{path}", fsync=False)
        self.database.migrate()
        self.worklist = WorklistIndex(self.database)
        self.service = MPPSService(ProcedureStepIndex(self.database), discontinued_returns=lambda: self.returns)

    @staticmethod
    def item(name: str) -> WorklistItem:
        sequence = {"00400009": text(name), "00400001": text("CT1", "AE"), "00400002": text("20250301", "DA")}
        data_set = {"00400100": {"vr": "SQ", "Value": [sequence]}}
        return WorklistItem(f"A{name}", "R", name, "9.1", ItemStatus.SCHEDULED, "test", data_set)

    @rule(uid=st.sampled_from(UIDS), items=st.lists(st.sampled_from([*ITEMS, "S9"]), unique=True, min_size=1),
          status=some_statuses)  # fmt: skip
    def create(self, uid: str, items: list[str], status: str) -> None:
        data_set = step(items, status)
        if status != "IN PROGRESS":
            with pytest.raises(AttributeRefused):
                self.service.create(uid, data_set, "CT1")
        elif uid in self.model:
            with pytest.raises(DuplicateInstance):
                self.service.create(uid, data_set, "CT1")
        else:
            known = [item for item in items if item in ITEMS]
            assert self.service.create(uid, data_set, "CT1").items == len(known)
            self.model[uid], self.tied[uid] = data_set, known

    @rule(uid=st.sampled_from(UIDS), status=some_statuses, count=st.integers(0, 2))
    def set(self, uid: str, status: str, count: int) -> None:
        changes = {STATUS: text(status, "CS"), SERIES: performed(count)}
        if uid not in self.model:
            with pytest.raises(InstanceNotFound):
                self.service.set(uid, changes)
            return
        expected = expected_of_set(self.model[uid], status, count)
        if expected is not None:
            with pytest.raises(expected):
                self.service.set(uid, changes)
            return
        assert self.service.set(uid, changes).status == status
        self.model[uid] = self.model[uid] | changes

    @precondition(lambda self: bool(self.model))
    @rule()
    def restart(self) -> None:
        self.database.close()
        self.open()

    @invariant()
    def steps_are_as_they_were_left(self) -> None:
        assert {row.sop_instance_uid for row in self.service.list()} == self.model.keys()
        for uid, data_set in self.model.items():
            assert self.service.show(uid).data_set == data_set

    @invariant()
    def items_follow_their_steps(self) -> None:
        for row in self.worklist.list():
            name = row.item.scheduled_procedure_step_id
            steps = [self.model[uid][STATUS]["Value"][0] for uid, tied in self.tied.items() if name in tied]
            if not steps or all(status == "DISCONTINUED" for status in steps):
                assert row.item.status == "SCHEDULED"
            elif "IN PROGRESS" in steps:
                assert row.item.status == "IN PROGRESS"
            else:
                assert row.item.status == "COMPLETED"
            assert len(self.service.loop_of(row.id, "9.1").steps) == len(steps)

    def teardown(self) -> None:
        self.database.close()
        self.directory.cleanup()


TestPureSteps = PureSteps.TestCase
TestService = pytest.mark.slow(Service.TestCase)
TestService.settings = settings(max_examples=examples.of(30), stateful_step_count=20)
