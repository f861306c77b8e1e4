"""The ten main tasks of docs/web.md from their beginning to their end: one browser, real peers, both databases.

What each page shows at the end is kept in build/screenshots.
"""

import csv
import io
import zipfile
from datetime import date
from pathlib import Path

import dcmtk
import pydicom
import pytest
from browsing import PASSWORD, Site, Start
from datasets import make_ct, make_study, uid, write_part10
from playwright.sync_api import Browser, Page, expect
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom.sop_class import ModalityPerformedProcedureStep, ModalityWorklistInformationFind
from servers import associated, collecting, eventually, store
from worklists import keys

from pacs_server.config.rights import Rights
from pacs_server.services.users import UserService

ANYBODY = "access_control:\n  allowed_ae_titles: ['*']\n"
CT1_ALONE = "# Ours.\naccess_control:\n  allowed_ae_titles: [CT1] # and no others\n"
STEP, WORKLIST = str(ModalityPerformedProcedureStep), str(ModalityWorklistInformationFind)


def test_1_find_a_study_and_open_it(site: Site, page: Page) -> None:
    ds = make_ct(PatientName="Roe^Jane", StudyDescription="Thorax")
    assert store(site.pacs, ds, make_ct(PatientName="Doe^John")) == [0, 0]
    page.goto(f"{site.url}/")
    rows = page.locator(".studies tbody tr")
    expect(rows).to_have_count(2)
    page.locator("#q").fill("roe thor")
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="Roe, Jane").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Roe, Jane")
    expect(page.get_by_text(ds.StudyInstanceUID)).to_be_visible()


def test_2_look_at_images(site: Site, page: Page) -> None:
    images = make_study(1, 2)
    assert store(site.pacs, *images) == [0, 0]
    page.goto(f"{site.url}/studies/{images[0].StudyInstanceUID}")
    page.get_by_role("link", name="Quick look").click()
    expect(page.get_by_text("Not for diagnosis", exact=True)).to_be_visible()
    for ds in images:
        expect(page.locator(f'.pane[data-shown="{ds.SOPInstanceUID}/1"]')).to_be_visible()
        page.keyboard.press("ArrowDown")


def test_3_send_a_study_to_a_workstation(start: Start, page: Page) -> None:
    with collecting("WS1") as workstation:
        site = start(ANYBODY, remote_aes=[workstation.remote])
        images = make_study(1, 2)
        assert store(site.pacs, *images) == [0, 0]
        page.goto(f"{site.url}/studies/{images[0].StudyInstanceUID}")
        page.get_by_role("button", name="Send the study").click()
        expect(page.get_by_text("The study is on its way.")).to_be_visible()
        assert eventually(lambda: len(workstation.instances) == 2)
        page.goto(f"{site.url}/studies/{images[0].StudyInstanceUID}/history")
        expect(page.get_by_text("Sent to WS1")).to_be_visible()
    assert {each.sop_instance_uid for each in workstation.instances} == {ds.SOPInstanceUID for ds in images}


def test_4_download_a_study_as_it_is_and_deidentified(site: Site, page: Page) -> None:
    images = make_study(2, 1, PatientName="Roe^Jane", InstitutionName="Ours")
    assert store(site.pacs, *images) == [0, 0]
    page.goto(f"{site.url}/studies/{images[0].StudyInstanceUID}")
    page.get_by_role("link", name="Download").click()
    with page.expect_download() as stored:
        page.get_by_role("link", name="Download as ZIP").click()
    page.get_by_role("link", name="See what is removed").click()
    expect(page.get_by_role("row", name="Patient's Name")).to_contain_text("Roe")
    with page.expect_download() as deidentified:
        page.get_by_role("link", name="Download de-identified").click()
    names, files = [], []
    for download in (stored, deidentified):
        with zipfile.ZipFile(download.value.path()) as packed:
            names.append(sorted(packed.namelist()))
            files.append(pydicom.dcmread(io.BytesIO(packed.read("DICOM/SE000001/IM000001"))))
    assert names[0] == names[1] == ["DICOM/SE000001/IM000001", "DICOM/SE000002/IM000001", "DICOMDIR"]
    assert (files[0].PatientName, files[0].SOPInstanceUID) == ("Roe^Jane", images[0].SOPInstanceUID)
    assert (files[1].PatientName, files[1].PatientIdentityRemoved) == ("", "YES")
    assert "Ours" not in str(files[1])


def test_5_upload_a_folder(site: Site, page: Page, tmp_path: Path) -> None:
    for name in ("one.dcm", "deeper/two.dcm"):
        write_part10(make_ct(PatientName="Up^Load"), tmp_path / "media" / name)
    (tmp_path / "media" / "notes.txt").write_text("no image")
    page.goto(f"{site.url}/")
    page.get_by_role("link", name="Upload").click()
    # Hidden until the script of the page listens; nobody can choose earlier, but this test could.
    expect(page.locator("#upload")).to_be_visible()
    page.locator("#folder").set_input_files(tmp_path / "media")
    expect(page.get_by_role("heading", level=2).first).to_have_text("Finished: 2 stored, 1 left out, 0 refused.")
    page.get_by_role("link", name="To the studies").click()
    expect(page.get_by_role("link", name="Up, Load")).to_have_count(2)


ORDER = {
    "PatientName": "Roe, Jane", "PatientID": "P7", "AccessionNumber": "A7", "Modality": "ct",
    "RequestedProcedureDescription": "CT of the head",
    "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartTime": "23:59",
}  # fmt: skip


def column(page: Page, title: str) -> str:
    return page.locator(".column", has=page.get_by_role("heading", name=title)).inner_text()


@pytest.mark.complains("400")
def test_6_plan_an_examination_and_see_its_images(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/worklist")
    page.get_by_role("link", name="New order").click()
    for keyword, text in ORDER.items():
        page.locator(f"#{keyword}").fill(text)
    page.get_by_role("button", name="Add the order").click()
    expect(page.get_by_role("link", name="Roe, Jane")).to_be_visible()
    assert "CT of the head" in column(page, "Scheduled")
    # The time is changed, and what the form does not show stays.
    page.get_by_role("link", name="Roe, Jane").click()
    page.get_by_label("AE title of the station").fill("A_TITLE_THAT_IS_LONG")
    page.get_by_label("Time").fill("07:15")
    page.get_by_role("button", name="Save the changes").click()
    expect(page.get_by_text("This has to be an AE title: at most 16 characters")).to_be_visible()
    page.get_by_label("AE title of the station").fill("CT1")
    with page.expect_response(lambda answer: answer.url.endswith("/events")):
        page.get_by_role("button", name="Save the changes").click()
    expect(page.get_by_text("07:15")).to_be_visible()
    # The modality takes the order from its worklist while the board is open, and says when it begins.
    with associated(site.pacs, WORKLIST, STEP, calling="CT1") as modality:
        asked = keys(
            {"ScheduledStationAETitle": "CT1", "ScheduledProcedureStepID": ""},
            StudyInstanceUID="",
            RequestedProcedureID="",
        )
        [order] = [found for _, found in modality.send_c_find(asked, WORKLIST) if found is not None]
        assert (order.PatientName, order.PatientID, order.AccessionNumber) == ("Roe^Jane", "P7", "A7")
        step = uid()
        status, _ = modality.send_n_create(begun(order), STEP, step)
        assert status.Status == 0
    expect(page.locator(".column", has_text="In progress")).to_contain_text("CT of the head")
    ds = make_ct(order.StudyInstanceUID, PatientName="Roe^Jane", PatientID="P7", AccessionNumber="A7")
    assert store(site.pacs, ds) == [0]
    with associated(site.pacs, STEP, calling="CT1") as modality:
        status, _ = modality.send_n_set(ended(ds), STEP, step)
        assert status.Status == 0
    expect(page.get_by_text("1 of 1 images received")).to_be_visible()
    page.get_by_role("link", name="1 image").click()
    expect(page).to_have_url(f"{site.url}/studies/{ds.StudyInstanceUID}")


def begun(order: Dataset) -> Dataset:
    """What a modality says when it begins with an order (PS3.4 Table F.7.2-1)."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID, scheduled.AccessionNumber = order.StudyInstanceUID, order.AccessionNumber
    scheduled.RequestedProcedureID = order.RequestedProcedureID
    step = order.ScheduledProcedureStepSequence[0]
    scheduled.ScheduledProcedureStepID = step.ScheduledProcedureStepID
    made = Dataset()
    made.ScheduledStepAttributesSequence = [scheduled]
    made.PatientName, made.PatientID, made.Modality = order.PatientName, order.PatientID, "CT"
    made.PerformedProcedureStepID, made.PerformedStationAETitle = "PPS1", "CT1"
    made.PerformedProcedureStepStartDate = date.today().strftime("%Y%m%d")
    made.PerformedProcedureStepStartTime, made.PerformedProcedureStepStatus = "0716", "IN PROGRESS"
    made.PerformedSeriesSequence = []
    return made


def ended(ds: Dataset) -> Dataset:
    """What a modality says when it has made this image."""
    image, series, made = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    series.SeriesInstanceUID, series.ProtocolName = ds.SeriesInstanceUID, "Head"
    series.ReferencedImageSequence = [image]
    made.PerformedSeriesSequence = Sequence([series])
    made.PerformedProcedureStepEndDate = date.today().strftime("%Y%m%d")
    made.PerformedProcedureStepEndTime, made.PerformedProcedureStepStatus = "0720", "COMPLETED"
    return made


@pytest.mark.interop
def test_7_point_a_new_modality_here(start: Start, page: Page, tmp_path: Path) -> None:
    site, path = start(CT1_ALONE), tmp_path / "one.dcm"
    write_part10(make_ct(PatientName="New^Modality"), path)

    def sends() -> int:
        host, port = site.pacs.address
        return dcmtk.run("storescu", "-aet", "CT9", "-aec", "PACS", host, port, path).returncode

    page.goto(f"{site.url}/network")
    expect(page.get_by_text("Nobody is connected at the moment.")).to_be_visible()
    assert sends() != 0
    # It appears by itself.
    page.get_by_role("link", name="Allow this peer CT9").click()
    expect(page.locator("pre")).to_contain_text("allow: [echo, store, find, move, get, worklist, mpps, commitment]")
    page.get_by_label("report what was done").uncheck()
    expect(page.locator("pre")).to_contain_text("allow: [echo, store, find, move, get, worklist, commitment]")
    page.get_by_role("button", name="Write this rule").click()
    expect(page.get_by_text("This peer is accepted from this address.")).to_be_visible()
    text = (tmp_path / "pacs.yaml").read_text()
    assert text.startswith(CT1_ALONE)
    assert '    - ae_title: "CT9"\n      addresses: ["127.0.0.1"]\n' in text
    assert sends() == 0
    page.get_by_role("link", name="Back").click()
    expect(page.get_by_role("row", name="CT9")).to_contain_text("Ended normally.")
    page.goto(f"{site.url}/studies")
    expect(page.get_by_role("link", name="New, Modality")).to_be_visible()


def test_8_resolve_a_conflict(site: Site, admin: Page) -> None:
    wrong, right = (make_ct(PatientName=name, PatientID="4711") for name in ("Roe^Jane", "Row^Jane"))
    assert store(site.pacs, wrong, right) == [0, 0]
    admin.goto(f"{site.url}/conflicts")
    expect(admin.get_by_role("row", name="Name (differs)")).to_contain_text("Row, Jane")
    admin.get_by_role("link", name="This patient is correct").first.click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("Merge these two patients?")
    expect(admin.get_by_role("row", name="Moved")).to_contain_text("1 study, 1 image")
    admin.get_by_label("Reason").fill("typed wrong")
    admin.get_by_role("button", name="Merge").click()
    expect(admin.get_by_role("status").first).to_contain_text("Done: 1 study, 1 image.")
    expect(admin.get_by_text("There are no conflicts.")).to_be_visible()
    assert site.pacs.archive.patients.count() == 0


def test_9_delete_a_study_and_restore_it(site: Site, admin: Page) -> None:
    ds = make_ct(PatientName="Roe^Jane")
    assert store(site.pacs, ds) == [0]

    def delete(reason: str) -> None:
        admin.goto(f"{site.url}/studies/{ds.StudyInstanceUID}")
        admin.get_by_text("Delete the study").click()
        admin.get_by_label("Reason").fill(reason)
        admin.get_by_role("button", name="Delete 1 image").click()
        expect(admin.get_by_text("There are no studies yet.")).to_be_visible()
        admin.goto(f"{site.url}/trash")

    delete("sent by mistake")
    row = admin.get_by_role("row", name="Roe, Jane")
    expect(row).to_contain_text("sent by mistake")
    row.get_by_role("button", name="Restore").click()
    expect(admin.get_by_text("1 image is back in the archive.")).to_be_visible()
    expect(admin.get_by_text("The trash is empty.")).to_be_visible()
    delete("again")
    admin.get_by_role("link", name="Remove for good").click()
    admin.get_by_role("button", name="Remove for good").click()
    expect(admin.get_by_text("It is removed for good.")).to_be_visible()
    assert site.pacs.archive.deletions.contents() == []


def test_10_who_has_seen_a_study(site: Site, page: Page, browser: Browser) -> None:
    ds = make_ct(PatientName="Roe^Jane", PatientID="4711")
    assert store(site.pacs, ds) == [0]
    page.goto(f"{site.url}/users")
    expect(page.get_by_role("heading", level=1)).to_have_text("Nobody has to log in here yet")
    assert page.get_by_role("link", name="Audit").count() == 0
    users = UserService(lambda: site.pacs.config.user_identity.users_path, site.pacs.archive.audit)
    users.add("ann", PASSWORD, Rights(role="administrator"))
    site.log_in(page)
    page.get_by_role("link", name="Users and keys").click()
    page.get_by_text("Add a user").click()
    page.get_by_label("Name", exact=True).fill("bob")
    page.get_by_label("Password, at least 8 characters").fill(PASSWORD)
    page.get_by_label("Repeat the password").first.fill(PASSWORD)
    page.get_by_label("Role").first.select_option("contributor")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("row", name="bob")).to_contain_text("contributor")
    context = browser.new_context()
    other = context.new_page()
    site.log_in(other, "bob")
    other.goto(f"{site.url}/studies/{ds.StudyInstanceUID}")
    expect(other.get_by_role("heading", level=1)).to_have_text("Roe, Jane")
    assert other.get_by_role("link", name="Audit").count() == 0
    context.close()
    page.goto(f"{site.url}/audit?when=today")
    page.get_by_label("Patient ID").fill("4711")
    page.get_by_label("User or AE title").fill("bob")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("row", name="bob").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    with download.value.path().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert any(row["study_instance_uid"] == ds.StudyInstanceUID for row in rows)
    assert all("bob" in row["users"] for row in rows)
