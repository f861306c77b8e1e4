"""axe-core finds nothing serious on any page: https://github.com/dequelabs/axe-core, from npm."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Site, guarded
from npm import installed
from playwright.sync_api import Page

pytestmark = pytest.mark.slow
# What frames, colours and text of an image say is not for a program to judge.
_SERIOUS = ("serious", "critical")
_HERE = Path(__file__)


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    beside = installed("axe", ["axe-core@4.11.0"], _HERE).parent
    return (beside / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def faults(page: Page, axe: str) -> list[str]:
    """What axe-core finds serious on a page: the rule and the first element that breaks it."""
    # By the debugger, which the policy of content does not bind.
    page.evaluate(axe)
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{page.url}: {each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0].get('failureSummary', '')[:300]}"
        for each in found["violations"]
        if each["impact"] in _SERIOUS
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with guarded(tmp_path_factory.mktemp("site"), "administrator") as site:
        yield site


@pytest.mark.parametrize("theme", ["light", "dark", "contrast"])
def test_no_page_has_a_serious_fault(site: Site, page: Page, axe: str, theme: str) -> None:
    page.goto(f"{site.url}/login")
    found = faults(page, axe)
    site.log_in(page)
    answer = page.request.post(f"{site.url}/api/v1/samples", data={}, headers={"content-type": "application/json"})
    assert answer.ok
    page.context.add_cookies([{"name": "pacs-theme", "value": theme, "url": site.url}])
    page.goto(f"{site.url}/studies")
    addresses: list[str] = page.evaluate("[...document.querySelectorAll('nav a')].map(link => link.href)")
    study = page.locator("#studies tbody a").first.get_attribute("href")
    assert study is not None
    addresses += [f"{site.url}{study}", f"{site.url}{study}".replace("/studies/", "/look/"), f"{site.url}/worklist/new"]
    addresses.append(f"{site.url}/audit/verification")
    assert len(addresses) > 12
    for address in addresses:
        page.goto(address)
        found += faults(page, axe)
    page.goto("about:blank")
    assert found == []
