"""The page of the settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from rooms import Rooms

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.settings import told, written


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    yield rooms
    rooms.close()


def test_settings_are_shown_with_source_and_explanation_and_without_secrets(rooms: Rooms) -> None:
    audit = rooms.config.audit.model_copy(update={"key": SecretStr("k" * 40)})
    origins = {"storage.trash_days": "pacs<b>.yaml line 7"}
    rooms.config = rooms.config.model_copy(update={"audit": audit, "origins": origins})
    page = rooms.page("/settings")
    assert "k" * 40 not in page
    assert "set (secret)" in page
    assert "pacs&lt;b&gt;.yaml line 7" in page
    assert "For how many days deleted instances can be restored" in page
    assert "These wait for a restart" in page
    assert page.count('class="setting"') > 90


def test_words_find_settings(rooms: Rooms) -> None:
    page = rooms.page("/settings?q=trash+DAYS")
    assert "storage.trash_days" in page
    assert "server.ae_title" not in page
    assert "No setting matches." in rooms.page("/settings?q=zzz")
    assert "No setting matches." in rooms.page("/settings?set=yes")


def test_only_administrators_see_settings(rooms: Rooms) -> None:
    rooms.act_as(Role.OPERATOR)
    assert "needs the role administrator" in rooms.page("/settings", 403)


def test_values_are_written_as_in_the_file() -> None:
    assert [written(each) for each in ("x", 5.0, True, None, ["a"], 1.5)] == ["x", "5", "true", "null", '["a"]', "1.5"]
    assert written([{"a": 1}]) == '[\n  {\n    "a": 1\n  }\n]'


def test_code_is_shown_as_such_and_nothing_is_markup() -> None:
    assert told("a `b<` c>") == "a <code>b&lt;</code> c&gt;"
