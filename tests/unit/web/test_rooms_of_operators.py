"""The pages about, tasks and trash: what they show to whom, and what their forms do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from restapi import LIMITED
from rooms import Rooms

from pacs_server.dicom.caller import Role
from pacs_server.index.task_values import NewTask
from pacs_server.web.pages.markdown import document
from pacs_server.web.pages.task_words import explained


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    yield rooms
    rooms.close()


def test_everybody_reads_about_the_server_and_what_it_speaks(rooms: Rooms) -> None:
    rooms.act_as(Role.READER, LIMITED)
    page = rooms.page("/about")
    assert "127.0.0.1:11112" in page
    assert "http://127.0.0.1:8080/dicom-web" in page
    assert "pydicom" in page
    page = rooms.page("/about/conformance")
    assert '<h2 id="1-overview">1 Overview</h2>' in page
    assert '<a href="#1-overview">' in page
    assert "A &lt;b&gt;title&lt;/b&gt;" in page
    assert page.count("<h1>") == 1


def test_documents_run_no_script() -> None:
    text = "# T\n\n<script>x</script> [a](javascript:alert(1)) ![b](data:text/html,x)\n\n## `<img onerror=x>`\n"
    html = document(text).html
    assert "<script" not in html
    assert "<img" not in html
    assert "href" not in html


@pytest.mark.parametrize("path", ["/tasks", "/trash"])
def test_rooms_of_operators_are_closed_to_others(rooms: Rooms, path: str) -> None:
    rooms.act_as(Role.CONTRIBUTOR)
    assert f'href="{path}"' not in rooms.page("/about")
    assert "needs the role operator" in rooms.page(path, 403)
    rooms.act_as(Role.OPERATOR)
    assert f'href="{path}"' in rooms.page(path)


def test_a_task_says_why_it_failed_and_is_tried_again_or_cancelled(rooms: Rooms) -> None:
    number = rooms.archive.tasks.add(NewTask("fetch", "ann", "WS1", {"study": "1.2.3"}))
    rooms.act_as(Role.OPERATOR)
    assert "WS1" in rooms.page("/tasks?state=ready&kind=fetch&target=WS1")
    assert "There are no such tasks" in rooms.page("/tasks?target=WS2")
    page = rooms.submit(f"/tasks/{number}/cancel", state="all")
    assert "The task is cancelled." in page
    assert 'value="all" selected' in page
    assert "The task is tried again now." in rooms.submit(f"/tasks/{number}/retry")
    assert "Try now" in rooms.page("/tasks")
    rooms.submit("/tasks/99/retry", 404)


def test_no_text_of_a_task_is_markup(rooms: Rooms) -> None:
    rooms.archive.tasks.add(NewTask("<i>kind</i>", "ann", "<b>WS1</b>"))
    page = rooms.page("/tasks")
    assert "<i>kind" not in page
    assert "&lt;b&gt;WS1&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("CT1 is not in remote_aes", "no such remote"),
        ("https://x answered 401", "refused the call"),
        ("https://x answered 503", "busy"),
        ("WS1: cannot connect to 10.0.0.1:104: Connection refused", "Nothing listens"),
        ("PACS2 did not commit to 3 instances (0x0112)", "does not promise"),
    ],
)
def test_sentences_that_were_recorded_are_explained(error: str, why: str) -> None:
    found = explained(error)
    assert found is not None
    assert why in found.why
    assert explained("nobody knows this") is None


def test_what_was_deleted_is_restored_or_removed_for_good(rooms: Rooms) -> None:
    for name in ("Roe^Jane", "Doe^John"):
        (ds,) = rooms.study(PatientName=name, PatientID=name[:3])
        rooms.send("POST", "/trash", {"level": "study", "uid": ds.StudyInstanceUID, "reason": "a <b>test</b>"}, 201)
    rooms.act_as(Role.OPERATOR)
    newest, oldest = (row["id"] for row in rooms.get("/trash")["items"])
    page = rooms.page("/trash")
    assert "Roe, Jane" in page
    assert "a &lt;b&gt;test&lt;/b&gt;" in page
    assert "in 4 weeks" in page
    assert "Remove for good" not in page
    assert "1 image is back in the archive." in rooms.submit(f"/trash/{oldest}/restore")
    rooms.submit(f"/trash/{newest}/purge", 403)
    rooms.act_as(Role.ADMINISTRATOR)
    assert "Nobody can bring it back" in rooms.page(f"/trash/{newest}/purge")
    assert "The trash is empty." in rooms.submit(f"/trash/{newest}/purge")


def test_a_form_of_somebody_else_does_nothing(rooms: Rooms) -> None:
    number = rooms.archive.tasks.add(NewTask("fetch", "ann"))
    rooms.page("/tasks")
    assert rooms.browser.post(f"/tasks/{number}/cancel", data={"token": "x"}).status_code == 400
    assert rooms.get(f"/tasks/{number}")["state"] == "ready"


def test_a_text_that_is_no_message_stays_text_when_a_template_translates_it(rooms: Rooms) -> None:
    for code in ("en", "de"):
        environment = rooms.pages._environment(rooms.pages.languages.language(code))
        made = environment.from_string("{{ _(x) }} {{ ngettext(x, x, 2) }} {{ _('%(y)s', y=x) }}")
        assert "<" not in made.render(x="<b>")
