"""Rules at work: what arrives is sent on once, late images follow, complete studies are noticed, circles are broken."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feeds import Place
from outboxes import Clock
from sqlalchemy import insert, select

from pacs_server.audit.events import NoAudit
from pacs_server.audit.recorder import Recorder
from pacs_server.config import Config
from pacs_server.config.load import load
from pacs_server.index.feed import Effect
from pacs_server.index.marks import MarkIndex
from pacs_server.index.remote_studies import RemoteStudy, RemoteStudyIndex, RemoteStudyState
from pacs_server.index.routing import RoutingIndex
from pacs_server.index.task_models import task as task_table
from pacs_server.index.task_overview import TaskFilter, TaskOverview
from pacs_server.index.task_values import Priority, Task, TaskState
from pacs_server.index.tasks import TaskIndex, Wanted
from pacs_server.index.workflow_models import procedure_step, procedure_step_instance, worklist_item
from pacs_server.outbox import router as router_module
from pacs_server.outbox.completion import CompletionHandler
from pacs_server.outbox.handler import Work
from pacs_server.outbox.router import CONSUMER, Router
from pacs_server.services.actions import STUDY_COMPLETE, WEBHOOK, Actions, ForwardOrder, circles
from pacs_server.services.marks import MarkService
from pacs_server.services.routing import Rules, compile_rules
from pacs_server.services.rule_engine import RuleEngine
from pacs_server.services.tasks import TaskService

SETTINGS = """
remote_aes:
  - {ae_title: WS1, host: 127.0.0.1, port: 104}
  - {ae_title: CT1, host: 127.0.0.1, port: 104}
  - {ae_title: LAB, host: 127.0.0.1, port: 104}
routing:
  webhook_secret_file: secret
  quiet_time: 60
  rules:
"""
SENT_ON = "    - {name: all, forward: WS1}\n"
WHOLE = "    - {name: whole, when: study_complete, match: {Modality: MR}, forward: WS1, webhook: 'https://ris/hook'}\n"


class Routed:
    """An archive with rules, whose router does one step when told, and what it ordered."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self.place = place
        self.clock = clock
        self.config = Config()
        self.rules = Rules()
        self.orders: list[ForwardOrder] = []
        self.sending: set[str] = set()
        self.tasks = TaskService(
            TaskIndex(place.database), TaskOverview(place.database), {}, clock=clock, spread=lambda: 0.0
        )
        index = RoutingIndex(place.database)
        self.engine = RuleEngine(index, lambda: self.rules, clock=lambda: datetime(2026, 3, 29, 12))
        audit = Recorder(NoAudit(), lambda: "PACS")
        self.marks = MarkService(MarkIndex(place.database), place.files.marks, audit)
        actions = Actions(lambda: self.config, self.engine, self.tasks, self._forwarding, self.marks)
        self.router = Router(place.feed, self.engine, actions)
        self.completion = CompletionHandler(
            index, self.engine, actions, lambda: self.config.routing, lambda title, address: title in self.sending
        )

    def configure(self, directory: Path, rules: str) -> None:
        (directory / "pacs_server.yaml").write_text(SETTINGS + rules)
        self.config = load(directory / "pacs_server.yaml", environ={}, overrides={})
        self.rules = compile_rules(self.config)
        self.router._follow()

    def _forwarding(self, orders: Sequence[ForwardOrder], now: datetime) -> list[Effect]:
        return [lambda connection: self.orders.extend(orders)]

    def step(self) -> None:
        """Read the feed to its end."""
        while self.router._next():
            pass

    def sent(self) -> list[tuple[str, str, list[str]]]:
        """Rule, remote and instances of the orders since the last call."""
        found = [(each.rule, each.remote, [one.sop_instance_uid for one in each.instances]) for each in self.orders]
        self.orders.clear()
        return found

    def look(self) -> None:
        """Run the tasks that are due which look whether studies are complete."""
        claimed = self.tasks.claim(Wanted({STUDY_COMPLETE: 20}))
        if claimed:
            self.completion.run(Work(claimed, self.tasks, lambda: False))

    def of_kind(self, kind: str) -> Sequence[Task]:
        return self.tasks.tasks(TaskFilter(tuple(TaskState), kind, None), 100)


@pytest.fixture
def routed(tmp_path: Path, database_url: str) -> Iterator[Routed]:
    (tmp_path / "secret").write_text("s" * 40)
    clock = Clock()
    with closing(Place(tmp_path / "archive", database_url)) as place:
        yield Routed(place, clock)


def test_what_arrives_is_sent_on_once_and_nothing_from_before(routed: Routed, tmp_path: Path) -> None:
    routed.place.store("1.1", "1.1.1", "1.1.1.0")
    routed.configure(tmp_path, SENT_ON)
    routed.place.store("1.1", "1.1.1", "1.1.1.1")
    routed.place.store("1.2", "1.2.1", "1.2.1.1")
    routed.step()
    assert routed.sent() == [("all", "WS1", ["1.1.1.1"]), ("all", "WS1", ["1.2.1.1"])]
    # The same again is no arrival; other bytes are.
    routed.place.store("1.1", "1.1.1", "1.1.1.1")
    routed.place.store("1.2", "1.2.1", "1.2.1.1", StationName="NEW")
    routed.step()
    assert routed.sent() == [("all", "WS1", ["1.2.1.1"])]


def test_what_fails_within_a_batch_happens_again_as_a_whole(
    routed: Routed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routed.configure(tmp_path, SENT_ON)
    routed.place.store("1.1", "1.1.1", "1.1.1.1")
    fails = RuntimeError("the process died")

    def failing(orders: Sequence[ForwardOrder], now: datetime) -> list[Effect]:
        def fail(connection: object) -> None:
            raise fails

        return [fail]

    with monkeypatch.context() as patch:
        patch.setattr(routed.router._actions, "_forwarding", failing)
        with pytest.raises(RuntimeError):
            routed.step()
    routed.step()
    assert routed.sent() == [("all", "WS1", ["1.1.1.1"])]


def test_without_rules_no_cursor_is_kept(routed: Routed, tmp_path: Path) -> None:
    routed.configure(tmp_path, SENT_ON)
    assert routed.place.feed.gauges() == {"pacs_feed_lag": 0}
    routed.configure(tmp_path, SENT_ON.replace("{", "{enabled: false, "))
    assert routed.place.feed.gauges() == {}


def test_nothing_goes_back_to_where_it_came_from(routed: Routed, tmp_path: Path) -> None:
    routed.configure(tmp_path, "    - {name: all, forward: [CT1, WS1]}\n")
    routed.place.store("1.1", "1.1.1", "1.1.1.1")  # from CT1
    routed.step()
    assert routed.sent() == [("all", "WS1", ["1.1.1.1"])]


def test_nothing_goes_back_to_who_had_it_moved_here(
    routed: Routed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    routed.configure(
        tmp_path,
        "    - {name: all, forward: [WS1, LAB]}\n"
        "    - {name: moved, match: {MoveOriginatorApplicationEntityTitle: 'WS*'}, label: moved}\n",
    )
    routed.place.store("1.1", "1.1.1", "1.1.1.1", move_originator="WS1")
    routed.place.store("1.1", "1.1.1", "1.1.1.2", move_originator="WS2")
    routed.place.store("1.1", "1.1.1", "1.1.1.3")
    with caplog.at_level("INFO"):
        routed.step()
    assert routed.sent() == [
        ("all", "WS1", ["1.1.1.2", "1.1.1.3"]),
        ("all", "LAB", ["1.1.1.1", "1.1.1.2", "1.1.1.3"]),
    ]
    (told,) = [each for each in caplog.records if each.message == "not sent back to where it came from"]
    assert (told.remote, told.instances) == ("WS1", 1)  # type: ignore[attr-defined]
    assert told.reason == "WS1 had it sent here by C-MOVE"  # type: ignore[attr-defined]
    assert routed.marks.of(["1.1"])["1.1"].labels == ("moved",)
    _, verdicts = routed.engine.test("1.1")
    assert [circles(routed.config, each.decision) for each in verdicts if each.decision] == [
        ["1 instance not to WS1: WS1 had it sent here by C-MOVE"],
        [],
    ]


def test_what_polling_fetches_is_not_routed_and_what_the_same_peer_sends_by_itself_is(
    routed: Routed, tmp_path: Path
) -> None:
    routed.configure(tmp_path, SENT_ON)
    now = routed.clock.now
    found = RemoteStudy("CT1", "1.1", "CT1", RemoteStudyState.FETCHING, Priority.LOW, "polling", now, now, now)
    RemoteStudyIndex(routed.place.database).put([found])
    routed.place.store("1.1", "1.1.1", "1.1.1.1", move_originator="PACS")
    routed.step()
    assert routed.sent() == []
    routed.place.store("1.1", "1.1.1", "1.1.1.2")
    routed.step()
    assert routed.sent() == [("all", "WS1", ["1.1.1.2"])]


def test_a_study_is_complete_when_nothing_came_for_a_while_and_late_images_follow(
    routed: Routed, tmp_path: Path
) -> None:
    routed.configure(tmp_path, WHOLE)
    routed.place.store("1.1", "1.1.1", "1.1.1.1", Modality="MR")
    routed.place.store("1.1", "1.1.2", "1.1.2.1", Modality="SR")
    routed.place.store("1.2", "1.2.1", "1.2.1.1", Modality="CT")
    routed.step()
    assert len(routed.of_kind(STUDY_COMPLETE)) == 2
    # The clock of the tasks is another than that of the instances.
    routed.clock.now = datetime.now(routed.clock.now.tzinfo) + timedelta(seconds=30)
    routed.look()
    assert routed.sent() == []
    routed.clock.advance(60)
    routed.look()
    # All of the study, because one series fulfils the rule.
    assert routed.sent() == [("whole", "WS1", ["1.1.1.1", "1.1.2.1"])]
    assert [each.payload["study"] for each in routed.of_kind(WEBHOOK)] == ["1.1"]
    assert {each.state for each in routed.of_kind(STUDY_COMPLETE)} == {TaskState.DONE}
    routed.place.store("1.1", "1.1.2", "1.1.2.2", Modality="SR")
    routed.step()
    routed.clock.advance(120)
    routed.look()
    assert routed.sent() == [("whole", "WS1", ["1.1.1.1", "1.1.2.1", "1.1.2.2"])]


def test_who_is_still_sending_is_waited_for_but_not_for_ever(routed: Routed, tmp_path: Path) -> None:
    routed.configure(tmp_path, WHOLE)
    routed.place.store("1.1", "1.1.1", "1.1.1.1", Modality="MR")
    routed.step()
    routed.sending.add("CT1")
    routed.clock.now = datetime.now(routed.clock.now.tzinfo) + timedelta(seconds=300)
    routed.look()
    assert routed.sent() == []
    routed.clock.advance(6)
    routed.sending.clear()
    routed.look()
    assert routed.sent() == [("whole", "WS1", ["1.1.1.1"])]
    routed.place.store("1.1", "1.1.1", "1.1.1.2", Modality="MR")
    routed.sending.add("CT1")
    routed.step()
    routed.clock.advance(3600)
    routed.look()
    assert routed.sent() == [("whole", "WS1", ["1.1.1.1", "1.1.1.2"])]


@pytest.mark.parametrize(("status", "complete"), [("COMPLETED", True), ("IN PROGRESS", False), ("DISCONTINUED", False)])
def test_a_completed_step_whose_images_are_here_ends_the_wait(
    routed: Routed, tmp_path: Path, status: str, complete: bool
) -> None:
    routed.configure(tmp_path, WHOLE)
    routed.place.store("1.1", "1.1.1", "1.1.1.1", Modality="MR")
    routed.step()
    now = routed.clock.now = datetime.now(routed.clock.now.tzinfo)
    with routed.place.database.begin() as connection:
        values = {"sop_instance_uid": "9.1", "status": status, "study_instance_uid": "1.1", "data_set": "{}"}
        key = connection.scalars(
            insert(procedure_step).values(**values, created_at=now, updated_at=now).returning(procedure_step.c.id)
        ).one()
        made = {"procedure_step_fk": key, "sop_class_uid": "1.2", "sop_instance_uid": "1.1.1.1"}
        connection.execute(insert(procedure_step_instance).values(**made))
        connection.execute(task_table.update().values(due=now, turn=now))
    routed.look()
    assert bool(routed.sent()) is complete


def test_the_priority_of_the_order_counts(routed: Routed, tmp_path: Path) -> None:
    routed.configure(
        tmp_path, "    - {name: stat, match: {RequestedProcedurePriority: STAT}, priority: urgent, forward: WS1}\n"
    )
    now = routed.clock.now
    with routed.place.database.begin() as connection:
        for number, (study, accession, priority) in enumerate(
            [("1.1", "", "STAT"), ("", "A2", "STAT"), ("1.3", "", "ROUTINE")]
        ):
            data_set = json.dumps({"00401003": {"vr": "SH", "Value": [priority]}})
            values = {"status": "SCHEDULED", "study_instance_uid": study, "accession_number": accession}
            connection.execute(
                insert(worklist_item).values(
                    **values, requested_procedure_id=str(number), data_set=data_set, created_at=now, updated_at=now
                )
            )
    for study, accession in (("1.1", "A1"), ("1.2", "A2"), ("1.3", "A3"), ("1.4", "")):
        routed.place.store(study, f"{study}.1", f"{study}.1.1", AccessionNumber=accession)
    routed.step()
    assert {order.study_instance_uid for order in routed.orders} == {"1.1", "1.2"}
    assert {str(order.priority) for order in routed.orders} == {"urgent"}


def test_a_rule_says_who_is_to_read_a_study(routed: Routed, tmp_path: Path) -> None:
    routed.configure(tmp_path, "    - {name: night, label: [night, ct], assign: neuro, reading: unread}\n")
    routed.place.store("1.1", "1.1.1", "1.1.1.1")
    routed.step()
    marks = routed.marks.of(["1.1"])["1.1"]
    assert (marks.labels, marks.assigned_to, marks.reading, marks.by) == (
        ("ct", "night"),
        "neuro",
        "unread",
        "rule night",
    )


def test_a_dry_run_says_what_each_rule_would_do(routed: Routed, tmp_path: Path) -> None:
    routed.configure(tmp_path, SENT_ON + WHOLE)
    routed.place.store("1.1", "1.1.1", "1.1.1.1", Modality="CT")
    count, (all_, whole) = routed.engine.test("1.1")
    assert (count, all_.instances, whole.instances) == (1, 1, 0)
    assert whole.reason == "Modality is CT, not 'MR'"
    assert routed.engine.test("9.9")[1][0].reason == "the study has no instances"


def test_the_thread_goes_on_after_a_fault_of_the_program(
    routed: Routed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from servers import eventually

    arrived, failures = routed.engine.arrived, iter([ZeroDivisionError()])

    def fail_once(changes: Any) -> Any:
        for error in failures:
            raise error
        return arrived(changes)

    monkeypatch.setattr(router_module, "_PAUSE_AFTER_FAILURE", 0.01)
    monkeypatch.setattr(routed.engine, "arrived", fail_once)
    routed.configure(tmp_path, SENT_ON)
    routed.place.store("1.1", "1.1.1", "1.1.1.1")
    routed.router.start()
    try:
        assert eventually(lambda: routed.orders)
    finally:
        routed.router.stop()
    assert [record.__dict__["reason"] for record in caplog.records if record.message == "rules not applied yet"] == [
        "internal error (ZeroDivisionError)"
    ]
    assert routed.sent() == [("all", "WS1", ["1.1.1.1"])]


def test_the_thread_follows_the_feed_and_sleeps_without_rules(routed: Routed, tmp_path: Path) -> None:
    from servers import eventually

    routed.router.start()
    try:
        routed.configure(tmp_path, SENT_ON)
        routed.router.reload()
        routed.place.store("1.1", "1.1.1", "1.1.1.1")
        assert eventually(lambda: routed.orders)
        with routed.place.database.connect() as connection:
            consumers = connection.execute(select(task_table.c.id)).all()
        assert consumers == []
    finally:
        routed.router.stop()
    assert CONSUMER.name == "routing"
