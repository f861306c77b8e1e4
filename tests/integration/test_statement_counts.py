"""How many SQL statements and transactions each operation needs, counted where the driver runs them."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import statements
import webclients
from datasets import make_study
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom.dsutils import encode
from rawpeer import (
    EXPLICIT,
    IMPLICIT,
    STUDY_ROOT_FIND,
    Instance,
    association,
    context_id,
    response,
    retrieve,
    store,
    study_keys,
)
from servers import config, eventually, running

from pacs_server.app.server import PacsServer
from pacs_server.config import DatabaseConfig
from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField
from pacs_server.web import threads

VERIFICATION = "1.2.840.10008.1.1"
KIND = (str(CTImageStorage), EXPLICIT)
INSTANCES = 20


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[PacsServer]:
    # Reading instances again in the background is work of its own.
    with running(config(tmp_path, web=True, storage={"scrub_rate": None})) as server:
        # The first peer seen is written to the index, the next ones a minute later.
        with association(port(server), [(VERIFICATION, EXPLICIT)]):
            pass
        assert eventually(lambda: peers_seen(tmp_path / "pacs.db") == 1)
        yield server


def port(pacs: PacsServer) -> int:
    return pacs.address[1]


def counting(pacs: PacsServer) -> AbstractContextManager[Counter[str]]:
    return statements.counted(pacs.archive.database)


def peers_seen(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM peer_seen").fetchone()[0])


def find(link: Association, data: bytes | None) -> int:
    request = Command(command_field=CommandField.C_FIND, message_id=link.next_message_id(), priority=0)
    request.affected_sop_class_uid = STUDY_ROOT_FIND
    link.send(context_id(link, STUDY_ROOT_FIND), request, data)
    count = 0
    while response(link, request).status == 0xFF00:
        count += 1
    return count


def test_a_stored_instance_is_one_insert_in_one_transaction(pacs: PacsServer) -> None:
    first, *rest = [Instance.of(ds) for ds in make_study(1, INSTANCES + 1)]
    with association(port(pacs), [KIND]) as link:
        assert store(link, first).status == 0
        with counting(pacs) as counted:
            assert [store(link, instance).status for instance in rest] == [0] * INSTANCES
    each = {word: count / INSTANCES for word, count in counted.items()}
    # One transaction for the row; looking whether the instance is known is none.
    assert each["COMMIT"] == each["INSERT"] == 1
    # The series, study and patient are remembered, and whether somebody else has written is asked for.
    assert each["SELECT"] <= 0.2
    assert each["PRAGMA"] <= 1
    # Counters of series, study and patient.
    assert each["UPDATE"] <= 3
    assert sum(each.values()) <= 8


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_on_a_database_server_a_stored_instance_is_three_round_trips(tmp_path: Path, database_url: str) -> None:
    first, *rest = [Instance.of(ds) for ds in make_study(1, INSTANCES + 1)]
    settings = config(tmp_path, storage={"scrub_rate": None})
    settings = settings.model_copy(update={"database": DatabaseConfig(url=database_url)})
    with (
        running(settings) as server,
        association(port(server), [KIND]) as link,
        statements.messages(server.archive.database, tmp_path) as sent,
    ):
        assert store(link, first).status == 0
        before = sent()
        assert [store(link, instance).status for instance in rest] == [0] * INSTANCES
        each = {kind: count / INSTANCES for kind, count in (sent() - before).items()}
    # BEGIN with the lock and the look-up; the row and the counters; the commit alone, after all has been written.
    assert (each["Sync"], each["Query"]) == (2, 1)
    # Series, study and patient are looked up, because another process may have written, and counted.
    assert each["Execute"] == each["Bind"] == 7
    # Nothing is parsed twice: what counts in rows that are there is prepared for the second instance.
    assert each.get("Parse", 0) <= 3 / INSTANCES
    assert {kind for kind, count in each.items() if count >= 1} == {"Bind", "Execute", "Describe", "Sync", "Query"}


def test_an_instance_costs_the_same_over_http(pacs: PacsServer) -> None:
    first, *rest = make_study(1, INSTANCES + 1)
    assert webclients.store(pacs, [first]).status_code == 200
    with counting(pacs) as counted:
        assert webclients.store(pacs, rest).status_code == 200
    each = {word: count / INSTANCES for word, count in counted.items()}
    assert each["COMMIT"] == each["INSERT"] == 1
    assert each["SELECT"] <= 2
    assert each["UPDATE"] <= 3
    assert sum(each.values()) <= 8


def test_a_query_is_one_statement(pacs: PacsServer) -> None:
    study = make_study(1, 1)[0]
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.PatientID, identifier.StudyInstanceUID = "STUDY", study.PatientID, ""
    data = encode(identifier, is_implicit_vr=True, is_little_endian=True)
    with association(port(pacs), [KIND]) as link:
        assert store(link, Instance.of(study)).status == 0
    with association(port(pacs), [(STUDY_ROOT_FIND, IMPLICIT)]) as link:
        assert find(link, data) == 1
        with counting(pacs) as counted:
            assert [find(link, data) for _ in range(INSTANCES)] == [1] * INSTANCES
    assert counted["SELECT"] == INSTANCES
    assert counted["COMMIT"] == 0
    # Its transaction begins and is rolled back.
    assert counted.total() <= 3 * INSTANCES


def test_the_number_of_matches_needs_no_statements(pacs: PacsServer) -> None:
    studies = [make_study(1, 1)[0] for _ in range(INSTANCES)]
    with association(port(pacs), [KIND]) as link:
        assert [store(link, Instance.of(ds)).status for ds in studies] == [0] * INSTANCES
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    with association(port(pacs), [(STUDY_ROOT_FIND, IMPLICIT)]) as link, counting(pacs) as counted:
        assert find(link, encode(identifier, is_implicit_vr=True, is_little_endian=True)) == INSTANCES
    assert counted["SELECT"] == 1


def test_a_retrieval_needs_the_same_statements_for_one_and_for_many(pacs: PacsServer) -> None:
    images = make_study(1, INSTANCES)
    with association(port(pacs), [KIND]) as link:
        assert [store(link, Instance.of(ds)).status for ds in images] == [0] * INSTANCES
    one = study_keys(
        images[0].StudyInstanceUID,
        SeriesInstanceUID=images[0].SeriesInstanceUID,
        SOPInstanceUID=images[0].SOPInstanceUID,
    )
    found = []
    for keys, expected in ((one, 1), (study_keys(images[0].StudyInstanceUID), INSTANCES)):
        with counting(pacs) as counted:
            assert len(retrieve(port(pacs), [KIND], keys)[1]) == expected
        found.append(counted)
    assert found[0] == found[1]
    assert found[1]["SELECT"] <= 2
    assert found[1]["COMMIT"] == 0


def test_an_echo_and_an_association_ask_the_index_nothing(pacs: PacsServer) -> None:
    with counting(pacs) as counted:
        for _ in range(3):
            with association(port(pacs), [(VERIFICATION, EXPLICIT)]) as link:
                request = Command(command_field=CommandField.C_ECHO, message_id=1)
                request.affected_sop_class_uid = VERIFICATION
                link.send(context_id(link, VERIFICATION), request)
                assert response(link, request).status == 0
    assert counted == {}


STUDY = "studies/{0.StudyInstanceUID}"
SERIES = f"{STUDY}/series/{{0.SeriesInstanceUID}}"
INSTANCE = f"{SERIES}/instances/{{0.SOPInstanceUID}}"


@pytest.mark.parametrize(
    ("path", "accept", "most_steps"),
    [
        ("studies?PatientID={0.PatientID}", "application/dicom+json", 1),
        (f"{STUDY}/instances", "application/dicom+json", 1),
        (INSTANCE, 'multipart/related; type="application/dicom"', 1),
        (INSTANCE, "application/dicom", 1),
        # What comes after the first instance is opened while that is sent.
        (STUDY, 'multipart/related; type="application/dicom"', 2),
    ],
)
def test_reading_over_http_is_one_statement_and_one_step_into_a_thread(
    pacs: PacsServer, monkeypatch: pytest.MonkeyPatch, path: str, accept: str, most_steps: int
) -> None:
    images = make_study(1, 3)
    assert webclients.store(pacs, images).status_code == 200
    assert pacs.web_address is not None
    url = "http://{}:{}/dicom-web/".format(*pacs.web_address) + path.format(images[0])
    steps: list[str] = []
    run = threads.Threads.run

    def counted(self: threads.Threads, function: Any, *arguments: Any) -> Any:
        steps.append(str(function))
        return run(self, function, *arguments)

    with httpx.Client(headers={"Accept": accept}) as client:
        assert client.get(url).status_code == 200
        monkeypatch.setattr(threads.Threads, "run", counted)
        with statements.statements(pacs.archive.database, of_peers=True) as sent:
            assert client.get(url).status_code == 200
    # Once a second somebody asks whether there are API keys, in a transaction and a step of its own.
    assert len([each for each in sent if each not in ("BEGIN", "ROLLBACK") and "api_key" not in each]) == 1
    assert len([each for each in steps if "exist" not in each]) <= most_steps
