"""The index's write side: counters, parents, duplicates, group commit."""

import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, insert, make_url, select, text
from statements import before_each, round_trips

from pacs_server.dicom.caller import Door
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import DuplicateInstance, IndexUnavailable, InstanceNotFound
from pacs_server.index import models
from pacs_server.index.database import Database
from pacs_server.index.group_commit import GroupCommit
from pacs_server.index.instances import Counts, InstanceIndex, StoredInstance
from pacs_server.index.prepared import Raw

ORIGIN = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[..., Database]]:
    """Makes further `Database`s on the same database, with options put into the URL."""
    with ExitStack() as stack:

        def connect(**options: str) -> Database:
            url = make_url(database_url).update_query_dict(options)
            return stack.enter_context(closing(Database(url.render_as_string(hide_password=False))))

        yield connect


@pytest.fixture
def index(database: Database) -> InstanceIndex:
    return InstanceIndex(database)


def header(study="1.1", series="1.1.1", sop="1.1.1.1", *, sop_class=CT, **values) -> Header:
    uids = {"study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": sop}
    defaults = {"patient_id": "P1", "modality": "CT", "sop_class_uid": sop_class}
    every = {name: value for name, value in (defaults | uids | values).items() if value}
    return Header(InstanceUIDs(study, series, sop), sop_class, EXPLICIT, every)


def stored(of: Header, version=1, digest="ab") -> StoredInstance:
    path = f"{of.uids.study}/{of.uids.sop}"
    return StoredInstance(of.uids, of.sop_class_uid, EXPLICIT, path, 352, 1000, digest, version)


def add(index: InstanceIndex, of: Header) -> None:
    index.add(stored(of), of, ORIGIN)


def rows(database: Database, table) -> list[dict]:
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]


def assert_counters_exact(database: Database) -> None:
    """Every counter is what counting gives."""
    patients, studies, series, instances = (rows(database, table) for table in models.TABLES.values())
    of_series = Counter(row["series_fk"] for row in instances)
    study_of = {row["id"]: row["study_fk"] for row in series}
    patient_of = {row["id"]: row["patient_fk"] for row in studies}
    of_study = Counter(study_of[row["series_fk"]] for row in instances)
    of_patient = Counter(patient_of[study_of[row["series_fk"]]] for row in instances)
    for row in series:
        assert row["number_of_series_related_instances"] == of_series[row["id"]] > 0
    for row in studies:
        mine = [s for s in series if s["study_fk"] == row["id"]]
        assert row["number_of_study_related_instances"] == of_study[row["id"]] > 0
        assert row["number_of_study_related_series"] == len(mine)
        assert row["modalities_in_study"] == joined(s["modality"] for s in mine)
        classes = (i["sop_class_uid"] for i in instances if study_of[i["series_fk"]] == row["id"])
        assert row["sop_classes_in_study"] == joined(classes)
    for row in patients:
        mine = [s["id"] for s in studies if s["patient_fk"] == row["id"]]
        assert row["number_of_patient_related_instances"] == of_patient[row["id"]] > 0
        assert row["number_of_patient_related_studies"] == len(mine)
        assert row["number_of_patient_related_series"] == sum(s["study_fk"] in mine for s in series)


def joined(values) -> str:
    return "\\".join(sorted(set(values) - {""}))


def some_headers(count: int) -> list[Header]:
    """Instances over 3 patients, 9 studies and 27 series, in random order."""
    made = []
    for number in range(count):
        patient, study, series = number % 3, number % 9, number % 27
        uids = (f"1.{study}", f"1.{study}.{series}", f"1.{study}.{series}.{number}")
        modality, sop_class = ("CT", CT) if series < 15 else ("MR", MR)
        made.append(header(*uids, patient_id=f"P{patient}", modality=modality, sop_class=sop_class))
    random.Random(count).shuffle(made)
    return made


def test_what_is_added_can_be_got(index):
    first = header()
    add(index, first)
    assert index.get(first.uids.sop) == stored(first)
    assert index.get("9.9") is None
    assert index.counts() == Counts(1, 1, 1, 1)


def test_empty_index_counts_nothing(index):
    assert index.counts() == Counts(0, 0, 0, 0)


def test_rows_hold_the_header_and_its_match_forms(index, database):
    add(index, header(patient_name="Müller^Jörg", study_time="0930", referring_physician_name="Ärztin^A", rows="512"))
    patient, study, series, instance = (rows(database, table)[0] for table in models.TABLES.values())
    assert patient["patient_name"] == "Müller^Jörg"
    assert patient["patient_name_match"] == "muller^jorg"
    assert study["study_time_match"] == "093000.000000"
    assert study["referring_physician_name_match"] == "arztin^a"
    assert series["modality"] == "CT"
    assert (instance["rows"], instance["calling_ae"], instance["peer"]) == ("512", "CT1", "127.0.0.1")
    assert instance["received_at"] is not None


@pytest.mark.slow
def test_counters_are_exact(index, database):
    for one in some_headers(60):
        add(index, one)
    assert index.counts() == Counts(3, 9, 27, 60)
    assert_counters_exact(database)


@pytest.mark.slow
def test_counters_are_exact_under_parallel_adds_and_commits_are_shared(database):
    commits: list[int] = []
    index = InstanceIndex(database, on_commit=lambda seconds, size: commits.append(size))
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda one: add(index, one), some_headers(400)))
    assert index.counts() == Counts(3, 9, 27, 400)
    assert_counters_exact(database)
    assert sum(commits) == 400
    assert len(commits) < 400


@pytest.mark.slow
def test_counters_are_exact_with_several_nodes_writing(database, connect):
    """Two indexes share nothing but the database, as two processes would."""
    nodes = itertools.cycle([InstanceIndex(connect()) for _ in range(2)])
    with ThreadPoolExecutor(8) as threads:
        jobs = [threads.submit(add, node, one) for node, one in zip(nodes, some_headers(200), strict=False)]
        for job in jobs:
            job.result()
    assert_counters_exact(database)
    assert InstanceIndex(database).counts() == Counts(3, 9, 27, 200)


def test_known_instance_is_a_duplicate_and_changes_nothing(index, database):
    add(index, header())
    before = [rows(database, table) for table in models.TABLES.values()]
    with pytest.raises(DuplicateInstance, match=r"1\.1\.1\.1"):
        add(index, header(patient_id="P2", study="2.2", series="2.2.2"))
    assert [rows(database, table) for table in models.TABLES.values()] == before


def test_of_parallel_adds_of_one_instance_exactly_one_succeeds(index, database):
    outcomes: list[bool] = []

    def try_add(_: int) -> None:
        try:
            add(index, header())
            outcomes.append(True)
        except DuplicateInstance:
            outcomes.append(False)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(try_add, range(32)))
    assert (outcomes.count(True), outcomes.count(False)) == (1, 31)
    assert_counters_exact(database)


def adds_in_one_batch(index: InstanceIndex, headers: list[Header]) -> list[BaseException | None]:
    """Add all of them with a single commit: they queue up while the test stands in for a leader."""
    with ThreadPoolExecutor(len(headers)) as threads:
        with index._commits._leading:
            jobs = []
            for number, one in enumerate(headers, 1):
                jobs.append(threads.submit(add, index, one))
                while len(index._commits._pending) < number and not jobs[-1].done():
                    pass
        return [job.exception() for job in jobs]


def test_duplicate_within_one_batch_fails_alone(database):
    commits: list[int] = []
    index = InstanceIndex(database, on_commit=lambda seconds, size: commits.append(size))
    add(index, header(sop="1.0"))
    batch = [header(sop="1.1"), header(sop="1.0"), header(sop="1.2"), header(sop="1.1")]
    errors = adds_in_one_batch(index, batch)
    assert [type(error) for error in errors] == [type(None), DuplicateInstance, type(None), DuplicateInstance]
    assert commits == [1, 4]
    assert_counters_exact(database)


def test_row_that_somebody_wrote_past_the_lock_is_a_duplicate(index, database, connect):
    """A unique violation fails its own entry; the others of the batch are stored."""
    add(index, header(sop="1.0"))
    intruder = {"sop_instance_uid": "1.5", "path": "", "data_set_offset": 0, "size": 0, "digest": ""}
    intruded: list[bool] = []

    def intrude(connection: Connection, statement: str) -> None:
        if statement.startswith("INSERT INTO instance") and not intruded:
            intruded.append(True)
            first = rows_of(connection, models.instance)[0]
            values = intruder | {"series_fk": first["series_fk"], "received_at": first["received_at"]}
            if connection.dialect.name == "sqlite":
                # There the lock holds for everybody: the same violation, made inside the transaction.
                connection.execute(insert(models.instance), [values, values])
            else:
                with other.begin() as elsewhere:
                    elsewhere.execute(insert(models.instance), values)

    other = connect()
    with before_each(database.engine, intrude):
        errors = adds_in_one_batch(index, [header(sop="1.4"), header(sop="1.5"), header(sop="1.6")])
    assert intruded
    expected = type(None) if database.is_sqlite else DuplicateInstance
    assert [type(error) for error in errors] == [type(None), expected, type(None)]
    assert index.get("1.4") is not None
    assert index.get("1.6") is not None


def rows_of(connection: Connection, table) -> list[dict]:
    return [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]


def test_empty_attributes_of_parents_are_filled_and_others_stay(index, database):
    add(index, header(sop="1.0", patient_name="Doe^Jane", study_description=""))
    later = {"patient_name": "DOE^JANE", "patient_sex": "F", "study_description": "Knee", "study_time": "1200"}
    add(index, header(sop="1.1", **later, series_description="T1"))
    add(index, header(sop="1.2", study_description="Hip"))
    patient, study, series = (rows(database, table)[0] for table in list(models.TABLES.values())[:3])
    assert (patient["patient_name"], patient["patient_sex"]) == ("Doe^Jane", "F")
    assert (study["study_description"], study["study_time_match"]) == ("Knee", "120000.000000")
    assert series["series_description"] == "T1"


def test_modality_that_comes_later_counts(index, database):
    add(index, header(sop="1.0", modality=""))
    assert rows(database, models.study)[0]["modalities_in_study"] == ""
    add(index, header(sop="1.1", modality="MR"))
    assert rows(database, models.study)[0]["modalities_in_study"] == "MR"
    assert_counters_exact(database)


def test_a_study_of_two_patients_is_two_studies(index, database, caplog):
    add(index, header(sop="1.0", patient_id="P1", patient_name="Doe^Jane"))
    with caplog.at_level(logging.WARNING):
        add(index, header(sop="1.1", patient_id="P2", patient_sex="M"))
        add(index, header(sop="1.2", patient_id="P2"))
    assert [row["patient_id"] for row in rows(database, models.patient)] == ["P1", "P2"]
    assert rows(database, models.patient)[0]["patient_sex"] == "", "an attribute of somebody else"
    assert [(row["patient_fk"], row["variant"]) for row in rows(database, models.study)] == [(1, 0), (2, 1)]
    (record,) = caplog.records
    assert record.sop_instance_uid == "1.1"
    assert "P1" not in caplog.text + str(record.__dict__)
    assert "P2" not in caplog.text + str(record.__dict__)
    assert_counters_exact(database)


def test_a_series_in_two_studies_is_two_series(index, database, caplog):
    add(index, header(study="1.1", sop="1.0"))
    with caplog.at_level(logging.WARNING):
        add(index, header(study="2.2", sop="1.1", study_description="of another study"))
    assert [row["study_instance_uid"] for row in rows(database, models.study)] == ["1.1", "2.2"]
    assert rows(database, models.study)[0]["study_description"] == ""
    assert index.get("1.1").uids == InstanceUIDs("2.2", "1.1.1", "1.1")
    assert [record.series_instance_uid for record in caplog.records] == ["1.1.1"]
    assert_counters_exact(database)


def test_same_patient_id_of_two_issuers_is_two_patients(index, database):
    add(index, header(study="1.1", series="1.1.1", sop="1.0", issuer_of_patient_id="A"))
    add(index, header(study="2.2", series="2.2.2", sop="1.1", issuer_of_patient_id="B"))
    assert index.counts() == Counts(2, 2, 2, 2)


@pytest.mark.parametrize("batches", [1, 3])
def test_studies_without_patient_id_are_different_patients(index, database, batches):
    """One anonymous study must not lend its name to another."""
    headers = [
        header(study="1.1", series="1.1.1", sop="1.0", patient_id="", patient_name="Doe^Jane"),
        header(study="2.2", series="2.2.2", sop="1.1", patient_id="", patient_name="Roe^Richard"),
        header(study="2.2", series="2.2.2", sop="1.2", patient_id=""),
    ]
    for start in range(0, 3, 3 // batches):
        assert set(adds_in_one_batch(index, headers[start : start + 3 // batches])) == {None}
    assert [row["patient_name"] for row in rows(database, models.patient)] == ["Doe^Jane", "Roe^Richard"]
    assert_counters_exact(database)


@pytest.mark.slow
def test_replace_puts_the_new_version_in_place(index, database):
    add(index, header(sop="1.0", modality="CT"))
    add(index, header(sop="1.1", modality="CT"))
    new = header(sop="1.1", sop_class=MR, instance_number="7")
    index.replace(stored(new, version=2, digest="cd"), new, ORIGIN)
    assert index.get("1.1") == stored(new, version=2, digest="cd")
    assert index.counts() == Counts(1, 1, 1, 2)
    assert rows(database, models.study)[0]["sop_classes_in_study"] == joined([CT, MR])
    assert_counters_exact(database)


def test_replace_may_move_an_instance_to_another_study(index, database):
    add(index, header(study="1.1", series="1.1.1", sop="1.0"))
    new = header(study="2.2", series="2.2.2", sop="1.0", patient_id="P2")
    index.replace(stored(new, 2), new, ORIGIN)
    assert [row["study_instance_uid"] for row in rows(database, models.study)] == ["2.2"]
    assert index.counts() == Counts(1, 1, 1, 1)
    assert_counters_exact(database)


def test_replace_goes_forward_only(index):
    """Of two nodes that replace at once, the later one does not go back to its older version."""
    add(index, header(sop="1.0"))
    index.replace(stored(header(sop="1.0"), 3), header(sop="1.0"), ORIGIN)
    for version in (1, 2, 3):
        with pytest.raises(DuplicateInstance, match="version 3"):
            index.replace(stored(header(sop="1.0"), version, "cd"), header(sop="1.0"), ORIGIN)


@pytest.mark.slow
def test_remove_takes_empty_parents_along(index, database):
    headers = some_headers(60)
    for one in headers:
        add(index, one)
    for left, one in enumerate(reversed(headers[1:]), 1):
        index.remove(one.uids.sop)
        if left % 7 == 0:
            assert_counters_exact(database)
    assert index.counts() == Counts(1, 1, 1, 1)
    index.remove(headers[0].uids.sop)
    assert [rows(database, table) for table in models.TABLES.values()] == [[], [], [], []]


def test_unknown_instances_are_not_found(index):
    with pytest.raises(InstanceNotFound):
        index.remove("9.9")
    with pytest.raises(InstanceNotFound):
        index.replace(stored(header(sop="9.9")), header(sop="9.9"), ORIGIN)
    assert index.counts() == Counts(0, 0, 0, 0)


@pytest.mark.slow
def test_locked_database_fails_everybody_and_leaves_nothing(database, connect):
    option = {"timeout": "0.1"} if database.is_sqlite else {"options": "-c lock_timeout=100ms"}
    index = InstanceIndex(connect(**option))
    with database.begin() as connection:
        statement = "UPDATE patient SET patient_sex = ''" if database.is_sqlite else "LOCK TABLE instance"
        connection.execute(text(statement))
        errors = adds_in_one_batch(index, [header(sop=f"1.{number}") for number in range(4)])
    assert [type(error) for error in errors] == [IndexUnavailable] * 4
    assert index.counts() == Counts(0, 0, 0, 0)
    add(index, header())
    assert index.counts() == Counts(1, 1, 1, 1)


def test_database_that_fails_half_way_leaves_nothing(index, database):
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE instance RENAME TO elsewhere"))
        connection.execute(text("CREATE TABLE instance (sop_instance_uid VARCHAR)"))
    errors = adds_in_one_batch(index, [header(sop="1.0"), header(sop="1.1")])
    assert [type(error) for error in errors] == [IndexUnavailable] * 2
    # Nothing was to be committed yet, so everybody knows that nothing is there.
    assert not any(error.uncertain for error in errors)
    assert index.counts() == Counts(0, 0, 0, 0)
    assert rows(database, models.series) == []


def test_a_commit_without_an_answer_is_uncertain(index, database, monkeypatch):
    def commit_and_lose_the_answer(connection) -> None:
        connection.commit()
        raise database.engine.dialect.loaded_dbapi.OperationalError("connection lost")

    monkeypatch.setattr(database.engine.dialect, "do_commit", commit_and_lose_the_answer)
    errors = adds_in_one_batch(index, [header(sop="1.0"), header(sop="1.1")])
    assert [(type(error), error.uncertain) for error in errors] == [(IndexUnavailable, True)] * 2
    with pytest.raises(IndexUnavailable) as replaced:
        index.replace(stored(header(sop="1.0"), 2), header(sop="1.0"), ORIGIN)
    assert replaced.value.uncertain
    monkeypatch.undo()
    assert index.get("1.0") is not None


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_connection_lost_before_the_commit_is_index_unavailable(index, database, connect):
    killer = connect()
    killed: list[bool] = []

    def kill(connection: Connection, statement: str) -> None:
        if statement.startswith("INSERT INTO instance") and not killed:
            killed.append(True)
            backend = connection.connection.dbapi_connection.info.backend_pid
            with killer.connect() as other:
                other.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend})

    with before_each(database.engine, kill), pytest.raises(IndexUnavailable):
        add(index, header(sop="1.0"))
    assert killed
    add(index, header(sop="1.1"))
    assert index.counts() == Counts(1, 1, 1, 1)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupted_leader_leaves_no_follower_waiting_or_deceived(database, interrupt):
    def fail(_raw: Raw, _entries: list[str]) -> list[None]:
        raise interrupt

    assert outcomes_of_four(GroupCommit(database, fail, lock=1)) == {interrupt: 1, IndexUnavailable: 3}


def outcomes_of_four(commits: GroupCommit[str]) -> Counter[type]:
    """What is raised to four threads whose entries are in one batch."""
    with ThreadPoolExecutor(4) as threads:
        with commits._leading:
            jobs = [threads.submit(commits.add, str(number)) for number in range(4)]
            while len(commits._pending) < 4:
                pass
        return Counter(type(job.exception(timeout=30)) for job in jobs)


def test_a_leader_interrupted_at_the_commit_deceives_nobody_either(database, monkeypatch):
    def fail(_connection: object) -> None:
        raise KeyboardInterrupt

    commits: GroupCommit[str] = GroupCommit(database, lambda _, entries: [None] * len(entries), lock=1)
    monkeypatch.setattr(database.engine.dialect, "do_commit", fail)
    assert outcomes_of_four(commits) == {KeyboardInterrupt: 1, IndexUnavailable: 3}


def test_a_leader_interrupted_before_it_wrote_anything_deceives_nobody_either(database, monkeypatch):
    commits: GroupCommit[str] = GroupCommit(database, lambda _, entries: [None] * len(entries), lock=1)

    def lead(batch: list[object]) -> None:
        if batch:
            raise KeyboardInterrupt

    monkeypatch.setattr(commits, "_lead", lead)
    assert outcomes_of_four(commits) == {KeyboardInterrupt: 1, IndexUnavailable: 3}


def statements_of(database: Database, work) -> list[str]:
    seen: list[str] = []

    def note(_connection: Connection, statement: str) -> None:
        if "pg_advisory_xact_lock" not in statement:  # on SQLite BEGIN takes the lock
            seen.append(statement)

    with before_each(database.engine, note):
        work()
    return seen


def test_statements_per_add_are_few(index, database):
    first = statements_of(database, lambda: add(index, header(sop="1.0")))
    second = statements_of(database, lambda: add(index, header(sop="1.1")))
    # Series, study and patient looked up, four rows.
    assert len(first) == 7
    # Three counters, one row; on a server another process may have written, so the series is looked up.
    assert len(second) == (4 if database.is_sqlite else 5)


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("count", [1, 20])
def test_a_batch_is_three_round_trips_to_a_database_server(index, count):
    """What begins it and looks its series up, what it writes, and the commit, which waits until all is written."""
    add(index, header(sop="1.0"))
    with round_trips() as counted:
        assert adds_in_one_batch(index, [header(sop=f"1.1.{number}") for number in range(count)]) == [None] * count
    assert counted.total() == 3


def test_what_is_remembered_of_parents_is_what_others_have_made_of_them(index, database, connect):
    other = Database(str(database.engine.url.render_as_string(hide_password=False)))
    elsewhere = InstanceIndex(other)
    with closing(other):
        for number in range(4):
            add(index, header(sop=f"1.{number}.0"))
            add(elsewhere, header(sop=f"1.{number}.1"))
            if number == 1:
                elsewhere.remove("1.0.0")
        add(elsewhere, header(sop="1.9", patient_id="P2"))
        add(index, header(sop="1.10", patient_id="P2"))
    assert index.counts() == Counts(2, 2, 2, 9)
    assert_counters_exact(database)
    for sop in [row["sop_instance_uid"] for row in rows(database, models.instance)]:
        index.remove(sop)
    add(index, header())
    assert index.counts() == Counts(1, 1, 1, 1)
    assert_counters_exact(database)


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_was_lost_between_transactions_costs_nothing(index, database, connect):
    add(index, header(sop="1.0"))
    mine = "pid <> pg_backend_pid() AND datname = current_database()"
    with connect().connect() as connection:
        assert connection.scalar(
            text(f"SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE {mine}")
        )
    add(index, header(sop="1.1"))
    assert index.counts() == Counts(1, 1, 1, 2)


@pytest.mark.slow
def test_statements_per_batch_do_not_grow_with_it(index, database):
    headers = some_headers(30)
    seen = statements_of(database, lambda: adds_in_one_batch(index, headers))
    # What is above them costs a statement for each series, study and patient that is new.
    assert len(set(seen)) <= 10
    assert sum("INTO instance" in statement for statement in seen) == 1
    assert_counters_exact(database)


def test_odd_peers_are_stored(index, database):
    """Names of files need not be text, and the peer of an import is one."""
    one = header()
    index.add(stored(one), one, replace(ORIGIN, peer="/in/\udcff\0.dcm"))
    assert rows(database, models.instance)[0]["peer"] == "/in/?.dcm"


def test_long_names_fit_the_database_index(index, database):
    # Each of these becomes 18 characters when folded.
    add(index, header(patient_name="\ufdfa" * 256, accession_number="\U0001f600" * 256))
    assert index.counts() == Counts(1, 1, 1, 1)


def test_a_study_was_received_with_the_earliest_of_its_instances(database: Database, index: InstanceIndex) -> None:
    """Whatever order they come in: what was restored, or a new index reads, may be older than what is there."""
    for number, day in enumerate((3, 1, 2)):
        of = header(sop=f"1.1.1.{number}")
        index.add(stored(of), of, ORIGIN, datetime(2026, 1, day, tzinfo=UTC))
    with database.connect() as connection:
        assert connection.scalars(select(models.study.c.received_at)).all() == ["20260101000000"]
