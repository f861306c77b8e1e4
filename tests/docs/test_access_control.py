"""The how-to of access control shows rules that load, and the rejections as they are."""

from collections.abc import Callable
from pathlib import Path

from pacs_server.cli.peers import _COLUMNS
from pacs_server.config.load import load
from pacs_server.net.acceptor import Rejection
from pacs_server.net.peer import Caller
from pacs_server.scp import access

PAGE = "docs/access-control.md"


def test_the_rules_load_and_do_what_the_page_says(code_blocks: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "pacs_server.yaml"
    rules, opened = code_blocks(PAGE, "yaml")
    file.write_text(rules)
    closed = load(file, environ={}, overrides={}).access_control
    assert access.rule_for("CT1", Caller("10.1.4.9"), closed) is closed.peers[0]
    assert access.rule_for("WS_A", Caller("2001:db8:1:2::9"), closed) is closed.peers[1]
    assert access.rule_for("REMOTE", Caller("10.1.4.9"), closed) is access.TLS_REQUIRED
    assert access.rule_for("MR1", Caller("10.1.4.9"), closed) is access.CALLING_AE_NOT_RECOGNIZED
    file.write_text(rules + opened)
    ajar = load(file, environ={}, overrides={}).access_control
    assert access.rule_for("CT1", Caller("10.9.9.9"), ajar) is access.PEER_ADDRESS_NOT_RECOGNIZED
    assert access.rule_for("MR1", Caller("10.9.9.9"), ajar) is access.ANYBODY


def test_the_rejections(rows: Callable[..., list[list[str]]]) -> None:
    told = {row[0].strip("`"): row[2].partition(":")[0] for row in rows(PAGE, "How a rule is found")}
    known = [value for value in vars(access).values() if isinstance(value, Rejection)]
    assert told == {r.name: f"{r.result}, {r.source}, {r.reason}" for r in known}


def test_the_columns_of_the_list(document: Callable[[str], str]) -> None:
    assert "\t".join(_COLUMNS) in document(PAGE)
