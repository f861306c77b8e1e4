"""An access rule is added to the configuration file, and nothing else in it changes."""

import os
import stat
from pathlib import Path

import pytest

from pacs_server.config.editing import add_rule, unwritable, with_rule
from pacs_server.config.load import load
from pacs_server.config.sections.access_control import PeerRule
from pacs_server.errors import ConfigError

RULE = PeerRule.model_validate({"ae_title": "CT9", "addresses": ["10.0.0.9"], "allow": ["echo", "store"]}, strict=False)
LINES = ["# By ann.", '- ae_title: "CT9"', '  addresses: ["10.0.0.9"]', "  allow: [echo, store]"]
CLOSED = "access_control:\n  allowed_ae_titles: [CT1]\n"

FORMS = {
    "nothing about access, with titles from elsewhere": "server:\n  port: 104  # ours\n\n# the end",
    "empty section": "access_control:\n  # peers:\n  #   - ae_title: OLD\nserver:\n  port: 104\n",
    "no peers": CLOSED + "  # later\n\nserver: {port: 104}\n",
    "a list": CLOSED + "  peers:\n    - ae_title: CT1  # first\n      allow: [echo]\n    # an old one\n\nweb: {}\n",
    "a list at the column of its key": CLOSED + "  peers:\n  - ae_title: CT1\n  - {ae_title: CT2}\nweb: {}\n",
    "a list at the end, without a last line feed": CLOSED + "  peers:\n      - ae_title: CT1",
    "an item with a list of its own": CLOSED + "  peers:\n    - ae_title: CT1\n      allow:\n        - echo\n\n",
    "a text over two lines": CLOSED
    + '  peers:\n    - ae_title: CT1\n      certificate:\n      - "a\n       b"\nweb: {}\n',
    "keys behind it": "access_control:\n    peers:\n        - ae_title: A\n    allowed_ae_titles: [B]\n",
    "umlauts and comments": "# Zugänge für äöü\n" + CLOSED + "  peers:\n    - ae_title: CT1 # Gerät\n",
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pacs.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("form", FORMS)
def test_a_rule_is_added_and_all_else_stays(tmp_path: Path, form: str, ends: str) -> None:
    text = FORMS[form].replace("\n", ends)
    path = written(tmp_path, text)
    # Without patterns of titles, the first rule would close the door.
    environ = {"PACS_SERVER__ACCESS_CONTROL__ALLOWED_AE_TITLES": "[CT1]"}
    before = load(path, environ=environ, overrides={})
    add_rule(path, RULE, LINES, environ)
    after = load(path, environ=environ, overrides={})
    assert after.access_control.peers == (*before.access_control.peers, RULE)
    assert after.model_copy(update={"access_control": before.access_control, "origins": {}}) == before.model_copy(
        update={"origins": {}}
    )
    edited = path.read_bytes().decode()
    assert ("\r\n" in edited) == (ends == "\r\n")
    left = iter(edited.split("\n"))
    # What was there is there in the same order, but for the line feed that was missing at the end.
    assert all(any(line.rstrip("\r") == other.rstrip("\r") for other in left) for line in text.split("\n"))
    # It can be done again.
    other = RULE.model_copy(update={"ae_title": "CT8"})
    add_rule(path, other, [line.replace("CT9", "CT8") for line in LINES], environ)
    assert load(path, environ=environ, overrides={}).access_control.peers == (*before.access_control.peers, RULE, other)


def test_an_empty_list_in_brackets_becomes_a_list_of_lines(tmp_path: Path) -> None:
    path = written(tmp_path, CLOSED + "  peers: []  # none yet\nweb: {}\n")
    add_rule(path, RULE, LINES[1:], {})
    assert path.read_text() == (
        CLOSED + '  peers:  # none yet\n    - ae_title: "CT9"\n      addresses: ["10.0.0.9"]\n'
        "      allow: [echo, store]\nweb: {}\n"
    )


REFUSED = {
    "access_control: {allowed_ae_titles: [CT1]}\n": "written in braces",
    CLOSED + "  peers: [{ae_title: CT1}]\n": "written in brackets",
    CLOSED + "  peers: [\n  ]\n": "written in brackets",
    "{access_control: {}}": "a form in which lines cannot be added",
    "server:\n  port: 104\n": "would shut out all other peers",
    "access_control: null\n": "written in braces",
    "server:\n  porta: 104\n": "is not known",
    "server:\n  port: 104\n...\n": "with these lines",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_is_left_alone_where_lines_cannot_be_added(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=REFUSED[text]):
        add_rule(path, RULE, LINES, {})
    assert path.read_text() == text
    assert os.listdir(tmp_path) == [path.name]


def test_rules_from_the_environment_are_not_for_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, CLOSED)
    environ = {"PACS_SERVER__ACCESS_CONTROL__PEERS": "[{ae_title: X}]"}
    with pytest.raises(ConfigError, match="set elsewhere: environment variable"):
        with_rule(path, RULE, LINES, environ)


def test_owner_mode_link_and_mark_of_the_file_stay(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    real = written(folder, "\ufeff" + CLOSED)
    real.chmod(0o640)
    link = tmp_path / "pacs.yaml"
    link.symlink_to(real)
    add_rule(link, RULE, LINES, {})
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.read_bytes().startswith(b"\xef\xbb\xbfaccess_control:")
    assert os.listdir(folder) == ["pacs.yaml"]
    assert load(link, environ={}, overrides={}).access_control.peers == (RULE,)


def test_a_file_that_changes_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, CLOSED)

    def meanwhile(descriptor: int) -> None:
        path.write_text(CLOSED + "  # an editor was quicker\n")

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(ConfigError, match="has changed meanwhile"):
        add_rule(path, RULE, LINES, {})
    assert path.read_text() == CLOSED + "  # an editor was quicker\n"
    assert os.listdir(tmp_path) == [path.name]


def test_a_disk_that_takes_nothing_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, CLOSED)
    assert unwritable(path) is None

    def fails(source: object, target: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(ConfigError, match="cannot be written: Device or resource busy"):
        add_rule(path, RULE, LINES, {})
    assert path.read_text() == CLOSED
    assert os.listdir(tmp_path) == [path.name]
