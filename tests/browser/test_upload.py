"""Uploading in a browser: files and ZIP archives, what is refused and why, a second time, and a break."""

import zipfile
from pathlib import Path

import pytest
from browsing import Site
from datasets import make_ct, write_part10
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def result(page: Page, name: str) -> str:
    return page.get_by_role("row", name=name).get_by_role("cell").last.inner_text()


@pytest.mark.complains("409 (Conflict)")
def test_files_and_archives(site: Site, page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    for name in ("one.dcm", "two.dcm", "three.dcm"):
        write_part10(make_ct(), folder / name)
    (folder / "broken.dcm").write_bytes((folder / "one.dcm").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "false.zip").write_bytes(b"PK no archive")
    with zipfile.ZipFile(folder / "disc.zip", "w") as disc:
        disc.write(folder / "two.dcm", "IMAGES/IM1", zipfile.ZIP_DEFLATED)
        disc.write(folder / "three.dcm", "IMAGES/IM2", zipfile.ZIP_STORED)
        disc.writestr("DICOMDIR", b"a directory")
    files = [folder / name for name in ("one.dcm", "broken.dcm", "notes.txt", "false.zip", "disc.zip")]

    page.goto(f"{site.url}/upload")
    page.locator("#files").set_input_files(files)
    expect(page.get_by_role("heading", level=2).first).to_have_text("Finished: 3 stored, 2 left out, 2 refused.")
    assert result(page, "one.dcm") == result(page, "disc.zip/IMAGES/IM1") == "stored"
    assert result(page, "disc.zip/DICOMDIR").startswith("left out: A DICOMDIR lists")
    assert result(page, "notes.txt") == "left out: This is no DICOM file."
    assert result(page, "false.zip") == "refused: This is no ZIP archive, or it is damaged."
    assert result(page, "broken.dcm").startswith("refused: ")
    page.get_by_role("link", name="To the studies").click()
    expect(page.locator("#studies tbody tr")).to_have_count(3)

    # The same files again: nothing is sent that was stored.
    page.goto(f"{site.url}/upload")
    page.locator("#files").set_input_files(files)
    expect(page.get_by_role("heading", level=2).first).to_have_text("Finished: 0 stored, 5 left out, 2 refused.")
    # But somebody may have deleted it meanwhile.
    page.get_by_role("button", name="Send again what was uploaded before").click()
    expect(page.get_by_role("heading", level=2).first).to_have_text("Finished: 3 stored, 2 left out, 2 refused.")


@pytest.mark.complains("ERR_FAILED", "ERR_CONNECTION")
def test_an_upload_goes_on_after_a_break(site: Site, page: Page, tmp_path: Path) -> None:
    for number in range(4):
        write_part10(make_ct(), tmp_path / "media" / f"{number}.dcm")
    page.goto(f"{site.url}/upload")

    def broken(route: Route) -> None:
        route.abort()

    page.route("**/dicom-web/studies", broken)
    page.locator("#folder").set_input_files(tmp_path / "media")
    expect(page.get_by_role("row", name="0.dcm")).to_contain_text("The server does not answer")
    page.get_by_role("button", name="Pause").click()
    page.unroute("**/dicom-web/studies", broken)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", level=2).first).to_have_text("Finished: 4 stored, 0 left out, 0 refused.")
