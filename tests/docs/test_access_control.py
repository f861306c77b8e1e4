"""The how-to of access control shows rules that load, and the rejections as they are."""

from collections.abc import Callable
from pathlib import Path

from pacs_server.cli.peers import _COLUMNS
from pacs_server.config.load import load
from pacs_server.dicom.caller import ANYBODY, Caller, Door
from pacs_server.scp.rejections import REJECTION_OF
from pacs_server.services.access import Refusal, rule_for

PAGE = "docs/access-control.md"


def caller(title: str, address: str) -> Caller:
    return Caller(Door.DIMSE, address, title, "PACS")


def test_the_rules_load_and_do_what_the_page_says(code_blocks: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "pacs_server.yaml"
    rules, opened = code_blocks(PAGE, "yaml")
    file.write_text(rules)
    closed = load(file, environ={}, overrides={}).access_control
    assert rule_for(caller("CT1", "10.1.4.9"), closed) is closed.peers[0]
    assert rule_for(caller("WS_A", "2001:db8:1:2::9"), closed) is closed.peers[1]
    assert rule_for(caller("REMOTE", "10.1.4.9"), closed) is Refusal.TLS_REQUIRED
    assert rule_for(caller("MR1", "10.1.4.9"), closed) is Refusal.CALLING_AE_TITLE
    file.write_text(rules + opened)
    ajar = load(file, environ={}, overrides={}).access_control
    assert rule_for(caller("CT1", "10.9.9.9"), ajar) is Refusal.PEER_ADDRESS
    assert rule_for(caller("MR1", "10.9.9.9"), ajar) is ANYBODY


def test_the_rejections(rows: Callable[..., list[list[str]]]) -> None:
    told = {row[0].strip("`"): row[2].partition(":")[0] for row in rows(PAGE, "How a rule is found")}
    assert told == {r.name: f"{r.result}, {r.source}, {r.reason}" for r in REJECTION_OF.values()}


def test_the_columns_of_the_list(document: Callable[[str], str]) -> None:
    assert "\t".join(_COLUMNS) in document(PAGE)
