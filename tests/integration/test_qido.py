"""QIDO-RS of a running server, with dicomweb-client and with bare requests."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import HTTP

import httpx2 as httpx
import pytest
from datasets import make_study
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from servers import config, eventually, running, store
from statements import statements
from trails import Kept

from pacs_server.app.server import PacsServer
from pacs_server.audit.events import EventID, Outcome
from pacs_server.index.database import Database
from pacs_server.web.dicomweb import search_results

STUDIES = 7
JSON, XML = "application/dicom+json", 'multipart/related; type="application/dicom+xml"'


@pytest.fixture(scope="module")
def trail() -> Iterator[Kept]:
    """The audit trail of the server."""
    kept = Kept()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pacs_server.app.assembly.open_trail", lambda settings: kept)
        # What follows a page is counted, however long that takes on a machine that does much else.
        patch.setattr("pacs_server.index.queries._COUNT_SECONDS", 30.0)
        yield kept


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, trail: Kept) -> Iterator[PacsServer]:
    """A server with seven studies of one series and two instances each; only the odd ones have an accession number."""
    with running(config(tmp_path_factory.mktemp("pacs"), web=True)) as server:
        studies = []
        for number in range(1, STUDIES + 1):
            named = "Müller^Jörg" if number % 2 else "Doe^Jane"
            accession = f"A{number}" if number % 2 else ""
            of_one = {"PatientID": f"P{number}", "PatientName": named, "AccessionNumber": accession}
            studies += make_study(1, 2, SpecificCharacterSet="ISO_IR 100", StudyDate=f"2024010{number}", **of_one)
        assert set(store(server, *studies)) == {0}
        yield server


@pytest.fixture
def service(pacs: PacsServer) -> str:
    assert pacs.web_address is not None
    return f"http://127.0.0.1:{pacs.web_address[1]}/dicom-web"


@pytest.fixture
def client(service: str) -> DICOMwebClient:
    return DICOMwebClient(service)


def get(url: str, accept: str = JSON) -> httpx.Response:
    return httpx.get(url, headers={"Accept": accept})


def ids(matches: list[dict[str, dict[str, list[str]]]]) -> list[str]:
    return [Dataset.from_json(match).PatientID for match in matches]


def test_dicomweb_client_searches_for_studies(client: DICOMwebClient) -> None:
    assert ids(client.search_for_studies()) == ["P7", "P6", "P5", "P4", "P3", "P2", "P1"]
    assert ids(client.search_for_studies(limit=2, offset=1)) == ["P6", "P5"]
    assert ids(client.search_for_studies(search_filters={"PatientName": "Müller*"})) == ["P7", "P5", "P3", "P1"]
    assert ids(client.search_for_studies(search_filters={"PatientName": "jane"}, fuzzymatching=True)) == [
        "P6",
        "P4",
        "P2",
    ]
    assert ids(client.search_for_studies(search_filters={"StudyDate": "20240103-20240104"})) == ["P4", "P3"]
    # Nobody is found by a number that a study does not have.
    assert ids(client.search_for_studies(search_filters={"AccessionNumber": "A1"})) == ["P1"]
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []
    [study] = client.search_for_studies(fields=["PatientComments", "00104000"], search_filters={"PatientID": "P3"})
    assert study["00104000"] == {"vr": "LT"}


def test_dicomweb_client_pages_until_the_end(client: DICOMwebClient) -> None:
    for size in (1, 3, 7, 100):
        found = client.search_for_studies(limit=size, get_remaining=True)
        assert ids(found) == ["P7", "P6", "P5", "P4", "P3", "P2", "P1"]
    assert len(client.search_for_instances(limit=4, get_remaining=True)) == 2 * STUDIES


def test_dicomweb_client_searches_below_a_study(client: DICOMwebClient) -> None:
    [study] = map(Dataset.from_json, client.search_for_studies(search_filters={"PatientID": "P3"}))
    uid = study.StudyInstanceUID
    [series] = map(Dataset.from_json, client.search_for_series(uid))
    assert (series.Modality, series.NumberOfSeriesRelatedInstances) == ("CT", 2)
    assert "PatientName" not in series
    instances = list(map(Dataset.from_json, client.search_for_instances(uid, series.SeriesInstanceUID)))
    assert [instance.InstanceNumber for instance in instances] == [1, 2]
    assert [i.SOPInstanceUID for i in instances] == [
        i.SOPInstanceUID for i in map(Dataset.from_json, client.search_for_instances(uid))
    ]
    assert client.search_for_series("1.2.3") == []
    for match in (study, series, *instances):
        assert match.RetrieveURL.startswith(f"{client.base_url}/studies/{uid}")
    assert get(instances[0].RetrieveURL, "application/dicom").status_code == 200


def test_dicomweb_client_searches_everywhere(client: DICOMwebClient) -> None:
    everywhere = client.search_for_series(search_filters={"PatientName": "doe*"})
    assert ids(everywhere) == ["P6", "P4", "P2"]
    [first, *_] = map(Dataset.from_json, client.search_for_instances(search_filters={"PatientID": "P2"}))
    assert (first.PatientID, first.Modality, first.Rows) == ("P2", "CT", first.Rows)


def test_a_warning_tells_that_there_is_more(service: str) -> None:
    # PS3.18 8.3.4.4
    warnings = [get(f"{service}/studies?limit={limit}").headers.get("warning") for limit in (0, 6, 7, 8)]
    more = '299 {} "There are {} additional results that can be requested"'.format
    assert warnings == [more(service, 7), more(service, 1), None, None]
    assert "warning" not in get(f"{service}/studies").headers
    assert get(f"{service}/instances?limit=3&offset=4&PatientName=M*").headers["warning"] == more(service, 1)
    both = get(f"{service}/studies?limit=1&colour=red").headers["warning"]
    assert both == f'299 {service} "These parameters are not supported and were ignored: colour", {more(service, 6)}'


def test_no_match_is_an_empty_list(service: str) -> None:
    answer = get(f"{service}/studies?PatientID=nobody")
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (200, [], JSON)
    # There is no multipart body without a part.
    answer = get(f"{service}/studies?PatientID=nobody", XML)
    assert (answer.status_code, answer.content) == (204, b"")


def test_media_types(service: str) -> None:
    url = f"{service}/studies?limit=1"
    for accept in ("*/*", "application/*", "", f"{JSON}, application/json", "text/html, */*;q=0.1"):
        assert get(url, accept).headers["content-type"] == JSON
    assert get(url, "application/json").headers["content-type"] == "application/json"
    assert get(f"{url}&accept=application/json").headers["content-type"] == "application/json"
    answer = get(url, "image/png")
    assert (answer.status_code, answer.headers["content-type"]) == (406, "application/problem+json")


def test_xml_has_what_json_has(service: str) -> None:
    url = f"{service}/studies?limit=2&PatientName=M%C3%BCller*"
    answer = get(url, XML)
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = list(message_from_bytes(head + answer.content, policy=HTTP).iter_parts())
    assert [part.get_content_type() for part in parts] == ["application/dicom+xml"] * 2
    namespace = {"n": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    for part, match in zip(parts, get(url).json(), strict=True):
        root = ET.fromstring(part.get_content())
        assert [each.get("tag") for each in root] == list(match)
        assert root.findtext("n:DicomAttribute[@keyword='PatientID']/n:Value", "", namespace) in "P7 P5"
        assert root.findtext(".//n:Alphabetic/n:FamilyName", "", namespace) in "Refer Müller"


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("studies?limit=-1", "limit: -1 is not an unsigned integer"),
        ("studies?StudyDate=yesterday", "StudyDate: no valid date, time or range"),
        ("studies/1.x/series", "the path does not name a study: '1.x' is not a UID"),
        ("studies/1.2/series/*/instances", "the path does not name a series: '*' is not a UID"),
    ],
)
def test_wrong_requests_are_refused_with_a_sentence(service: str, path: str, detail: str) -> None:
    answer = get(f"{service}/{path}")
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


def test_head_tells_what_get_would(service: str) -> None:
    url = f"{service}/studies?limit=2"
    head, answer = httpx.head(url), httpx.get(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "warning"):
        assert head.headers[name] == answer.headers[name]


def test_long_answers_come_in_pieces(service: str, pacs: PacsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_results, "_CHUNK_ROWS", 3)
    whole = get(f"{service}/instances").json()
    assert len(whole) == 2 * STUDIES
    for count in (2, 3, 4, 13, 14, 15):
        answer = get(f"{service}/instances?limit={count}")
        assert answer.json() == whole[:count], count
        assert ("warning" in answer.headers) == (count < 14), count
        # What fits into one piece has a Content-Length.
        assert ("content-length" in answer.headers) == (count <= 3), count
    parts = get(f"{service}/instances", XML)
    assert parts.content.count(b"Content-Type: application/dicom+xml") == 14
    assert parts.content.endswith(b"--\r\n")
    # Whoever wants the head only, or goes away, gives the index its connection back. Those who store keep one.
    kept = checked_out(pacs.archive.database)
    assert kept <= 1
    assert httpx.head(f"{service}/instances").content == b""
    with httpx.stream("GET", f"{service}/instances") as stream:
        next(stream.iter_raw(1))
    assert eventually(lambda: checked_out(pacs.archive.database) == kept)


def checked_out(database: Database) -> int:
    return int(database.engine.pool.checkedout())  # type: ignore[attr-defined]


def test_each_search_is_in_the_audit_trail(service: str, trail: Kept) -> None:
    trail.events.clear()
    get(f"{service}/studies?PatientName=Doe*&limit=2&colour=red")
    get(f"{service}/studies?PatientID=P4&limit=x")
    found, refused = trail.of(EventID.QUERY)
    assert (found.outcome, found.query, found.detail) == (Outcome.SUCCESS, {"PatientName": "Doe*"}, "2 matches")
    assert found.participants[0].address == "127.0.0.1"
    assert (refused.outcome, refused.detail) == (Outcome.MINOR_FAILURE, "limit: x is not an unsigned integer")


def test_without_an_audit_trail_there_is_no_answer(service: str, trail: Kept) -> None:
    trail.full = True
    try:
        assert get(f"{service}/studies").status_code == 503
    finally:
        trail.full = False


def test_a_search_is_one_statement_and_what_it_leaves_out_another_one(service: str, pacs: PacsServer) -> None:
    get(f"{service}/studies?limit=2")
    with statements(pacs.archive.database, of_peers=True) as sent:
        for query in ("studies?limit=9", "studies?PatientName=M%C3%BCller*", "instances?PatientID=P1&limit=1"):
            assert get(f"{service}/{query}").json()
    # Once a second somebody asks whether there are API keys, in a transaction.
    searches = [
        statement for statement in sent if statement not in ("BEGIN", "ROLLBACK") and "api_key" not in statement
    ]
    assert ["count(*)" in statement for statement in searches] == [False, False, False, True]
