"""A link that shows one study: made by one person, opened by another in a browser of their own."""

from pathlib import Path

import pytest
from browsing import Site
from datasets import make_ct
from playwright.sync_api import Browser, Page, expect
from servers import config, running

from pacs_server.config import WebConfig, WebShareLinksConfig


@pytest.mark.complains("404")
def test_a_link_is_made_opened_and_revoked(browser: Browser, page: Page, tmp_path: Path) -> None:
    web = WebConfig(enabled=True, port=0, share_links=WebShareLinksConfig(enabled=True))
    with running(config(tmp_path, web=True).model_copy(update={"web": web})) as pacs:
        site = Site(pacs)
        ds = make_ct()
        ds.PatientName = "Roe^Jane"
        site.keep(ds, tmp_path)
        page.goto(f"{site.url}/studies/{ds.StudyInstanceUID}")
        page.get_by_role("link", name="Share").click()
        page.get_by_label("For whom").fill("Dr. Weber")
        page.get_by_label("Valid for").select_option("24")
        page.get_by_role("button", name="Create the link").click()
        url = page.get_by_label("Copy it now").input_value()
        context = browser.new_context()
        guest = context.new_page()
        guest.goto(url)
        expect(guest.get_by_role("heading", level=1)).to_have_text("Roe, Jane")
        expect(guest).to_have_url(f"{site.url}/studies/{ds.StudyInstanceUID}")
        expect(guest.get_by_role("heading", name="Notes")).to_have_count(0)
        page.get_by_role("button", name="Revoke the link Dr. Weber").click()
        expect(page.get_by_text("There are none.")).to_be_visible()
        guest.goto(url)
        expect(guest.get_by_text("This link is not valid")).to_be_visible()
        context.close()
        page.goto("about:blank")
