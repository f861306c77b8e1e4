"""What all pages have in common: the way in, the choice of language and colours, and use by keyboard."""

from pathlib import Path

import pytest
from browsing import Site
from datasets import make_ct
from playwright.sync_api import Page, expect


def test_a_study_appears_while_the_list_is_open(site: Site, page: Page, tmp_path: Path) -> None:
    with page.expect_response(lambda answer: answer.url.endswith("/events")):
        page.goto(f"{site.url}/studies")
    expect(page.get_by_text("There are no studies yet.")).to_be_visible()
    ds = make_ct()
    ds.PatientName = "New^Arrival"
    site.keep(ds, tmp_path)
    expect(page.get_by_role("link", name="New, Arrival")).to_be_visible()


def test_language_and_colours_stay(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/studies?q=x")
    page.get_by_label("Preferences and account").click()
    page.get_by_label("Language").select_option("de")
    page.get_by_label("Colours").select_option("dark")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(f"{site.url}/studies?q=x")
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto(f"{site.url}/studies")
    expect(page.get_by_role("link", name="Untersuchungen")).to_be_visible()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.complains("404")
def test_a_page_that_is_not_there_says_so(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/nowhere")
    expect(page.get_by_role("alert")).to_contain_text("There is no page /nowhere.")
    page.get_by_role("link", name="To the studies").click()
    expect(page).to_have_url(f"{site.url}/studies")
