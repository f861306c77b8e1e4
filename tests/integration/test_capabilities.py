"""OPTIONS tells what the DICOMweb services can do, and other methods are answered with those that there are."""

from collections.abc import Iterator
from xml.etree import ElementTree

import httpx2 as httpx
import pytest
from servers import config, running
from webclients import url_of

from pacs_server.app.server import PacsServer
from pacs_server.web.dicomweb.resources import BASE
from pacs_server.web.dicomweb.transactions import TRANSACTIONS

WADL = "{http://wadl.dev.java.net/2009/02}"
STUDY = "/studies/1.2"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsServer]:
    with running(config(tmp_path_factory.mktemp("capabilities"), web=True)) as server:
        yield server


def options(pacs: PacsServer, path: str, accept: str = "*/*") -> httpx.Response:
    return httpx.request("OPTIONS", url_of(pacs, path), headers={"Accept": accept})


def transactions(resource: ElementTree.Element, path: str) -> dict[tuple[str, str], str]:
    found = {(method.get("name", ""), path): method.get("id", "") for method in resource.findall(f"{WADL}method")}
    for inner in resource.findall(f"{WADL}resource"):
        found |= transactions(inner, f"{path}/{inner.get('path')}")
    return found


def test_the_root_tells_all_transactions(pacs: PacsServer) -> None:
    for path in ("", "/"):
        answer = options(pacs, path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/vnd.sun.wadl+xml"
        [resources] = ElementTree.fromstring(answer.content)
        assert resources.get("base") == url_of(pacs)
        assert transactions(resources, BASE) == {
            (method, resource.replace(":path", "")): transaction.identifier
            for (method, resource), transaction in TRANSACTIONS.items()
            if resource.startswith(BASE)
        }


def test_a_resource_tells_what_is_below_it(pacs: PacsServer) -> None:
    [resources] = ElementTree.fromstring(options(pacs, f"{STUDY}/series/1.3").content)
    [resource] = resources
    assert resource.get("path") == "studies/{study}/series/{series}"
    told = transactions(resource, "")
    assert told["GET", ""] == "RetrieveSeries"
    assert told["DELETE", ""] == "DeleteSeries"
    assert told["GET", "/instances/{instance}/frames/{frames}"] == "RetrieveFrames"
    assert ("GET", "/studies") not in told


def test_the_same_as_json(pacs: PacsServer) -> None:
    told = options(pacs, "/studies", "application/json").json()
    assert set(told["methods"]) == {"GET", "POST"}
    assert told["methods"]["POST"]["request"][0] == 'multipart/related; type="application/dicom"'
    assert "application/dicom+json" in told["methods"]["POST"]["response"]
    assert "metadata" in told["resources"]["{study}"]["resources"]


def test_nothing_that_the_client_accepts(pacs: PacsServer) -> None:
    assert options(pacs, "/studies", "image/png").status_code == 406


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("", "OPTIONS"),
        ("/studies", "GET, HEAD, OPTIONS, POST"),
        (STUDY, "DELETE, GET, HEAD, OPTIONS, POST"),
        (f"{STUDY}/series", "GET, HEAD, OPTIONS"),
        (f"{STUDY}/series/1.3", "DELETE, GET, HEAD, OPTIONS"),
    ],
)
def test_allowed_methods(pacs: PacsServer, path: str, allowed: str) -> None:
    assert options(pacs, path).headers["allow"] == allowed
    answer = httpx.request("PUT", url_of(pacs, path))
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == set(allowed.split(", "))
    assert answer.json()["status"] == 405


def test_the_table_holds_every_route(pacs: PacsServer) -> None:
    """Every resource has the methods of the table, OPTIONS and HEAD aside, and no others."""
    for method, resource in TRANSACTIONS:
        path = resource.replace("{path:path}", "1").replace("{", "").replace("}", "")
        address = url_of(pacs).removesuffix(BASE) + path
        told = httpx.request("OPTIONS", address).headers["allow"].split(", ")
        assert method in told
        assert {each for each in told if each not in ("HEAD", "OPTIONS")} == {
            other for other, same in TRANSACTIONS if same == resource
        }
