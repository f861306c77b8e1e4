"""The page of users and keys, and what it says while nobody has to log in."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from restapi import ANN
from rooms import Rooms

from pacs_server.dicom.caller import Role

PASSWORD = {"password": "12345678", "again": "12345678"}


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    yield rooms
    rooms.close()


def test_a_user_is_added_changed_and_removed(rooms: Rooms) -> None:
    assert "There are no users with a password." in rooms.page("/users")
    limits = {"modalities": "CT, MR", "patients": "P1\nP2^^^HOSPITAL"}
    page = rooms.submit("/users", name="Bo/b <b>", role="reader", **PASSWORD, **limits)
    assert "The user is added." in page
    assert "Bo/b &lt;b&gt;" in page
    assert rooms.get("/users")["items"] == [
        {"name": "Bo/b <b>", "role": "reader", "modalities": ["CT", "MR"], "ae_titles": [],
         "patients": ["P1", "P2^^^HOSPITAL"]}
    ]  # fmt: skip
    assert "P2^^^HOSPITAL" in rooms.page("/users/change?name=Bo/b%20%3Cb%3E")
    assert "The rights were changed" in rooms.submit("/users/rights", name="Bo/b <b>", role="operator")
    assert rooms.get("/users")["items"][0]["role"] == "operator"
    assert "The password was changed" in rooms.submit("/users/password", name="Bo/b <b>", **PASSWORD)
    assert "The user is removed." in rooms.submit("/users/remove", name="Bo/b <b>")
    rooms.page("/users/change?name=bob", 404)


def test_passwords_that_differ_or_are_short_add_nobody(rooms: Rooms) -> None:
    rooms.page("/users")
    page = rooms.submit("/users", 400, name="bob", role="reader", password="12345678", again="87654321")
    assert "the two passwords are not the same" in page.lower()
    page = rooms.submit("/users", 400, name="bob", role="reader", password="1234567", again="1234567")
    assert "1234567" not in page
    assert rooms.get("/users")["items"] == []


def test_what_is_refused_comes_back_with_the_form_and_what_was_typed(rooms: Rooms) -> None:
    rooms.page("/users")
    rooms.submit("/users", name="bob", role="reader", **PASSWORD)
    page = rooms.submit("/users", 400, name="bob", role="contributor", modalities="CT, MR", patients="P1", **PASSWORD)
    assert re.search(r'id="new-wrong">There is a user bob already', page), page
    assert re.search(r'id="new-name" name="name" value="bob"[^>]* aria-describedby="new-wrong"', page)
    assert '<option value="contributor" selected>' in page
    assert 'name="modalities" value="CT, MR"' in page
    assert PASSWORD["password"] not in page
    assert [user["role"] for user in rooms.get("/users")["items"]] == ["reader"]
    rooms.submit("/users/keys", name="script", role="reader", expires="30")
    page = rooms.submit("/users/keys", 400, name="script", role="reader", expires="7")
    assert re.search(r'id="key-wrong">There is a key script already', page)
    assert 'max="3650" value="7"' in page
    page = rooms.submit("/users/keys", 400, name="x<y", role="reader", expires="soon")
    assert 'value="x&lt;y"' in page
    page = rooms.submit("/users/password", 400, name="bob", password="12345678", again="87654321")
    assert 'id="password-wrong"' in page
    page = rooms.submit("/users/rights", 400, name="bob", role="administrator", modalities="CT")
    assert 'id="user-wrong"' in page
    assert '<option value="administrator" selected>' in page


def test_a_key_is_shown_once_and_revoked(rooms: Rooms) -> None:
    rooms.page("/users")
    page = rooms.submit("/users/keys", name="script", role="reader", expires="30", modalities="CT")
    key = re.search(r'id="made-key">(pacs_[^<]+)<', page)
    assert key is not None
    assert "in 4 weeks" in page or "in 1 month" in page or "until" in page
    assert key[1] not in rooms.page("/users")
    assert rooms.archive.keys.find(key[1]) is not None
    assert "The key is no longer valid." in rooms.submit("/users/keys/revoke", name="script")
    assert rooms.archive.keys.find(key[1]) is None
    rooms.submit("/users/keys", 400, name="x", role="reader", expires="soon")


def test_open_mode_is_explained_and_others_are_refused(rooms: Rooms) -> None:
    rooms.caller = replace(ANN, user=None, role=Role.CONTRIBUTOR)
    page = rooms.page("/users")
    assert "Nobody has to log in here yet" in page
    assert "<code>pacs-server user add ann --role administrator</code>" in page
    assert "in the directory in which the server was started" in page
    rooms.config = rooms.config.model_copy(update={"source": Path("/etc/my pacs/pacs.yaml")})
    page = rooms.page("/users")
    assert "user add ann --role administrator --config &#39;/etc/my pacs/pacs.yaml&#39;</code>" in page
    assert "in the directory in which the server was started" not in page
    rooms.submit("/users", 403, name="bob", role="administrator", **PASSWORD)
    assert 'href="/users"' in rooms.page("/about")
    rooms.act_as(Role.OPERATOR)
    assert "needs the role administrator" in rooms.page("/users", 403)
    assert 'href="/users"' not in rooms.page("/about")
