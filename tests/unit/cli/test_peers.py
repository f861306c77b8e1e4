"""`pacs-server peers seen`, and the rules that it suggests."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from pacs_server.app.assembly import open_archive
from pacs_server.config.load import load
from pacs_server.dicom.caller import Caller, Door
from pacs_server.index.peers import PeerIndex, PeerSeen
from pacs_server.services.access import Refusal, rule_for

Run = Callable[..., tuple[int, list[str], str]]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CT1 = PeerSeen("CT1", "PACS", "10.0.0.7", NOON, NOON + timedelta(minutes=5), 3, "accepted", True, "SCANNER_2")
PEERS = (
    CT1,
    replace(CT1, address="2001:db8::7", last_seen_at=NOON + timedelta(minutes=4), count=1, outcome="peer_address"),
    replace(CT1, called_ae="OLDPACS", last_seen_at=NOON + timedelta(minutes=3), count=5),
    PeerSeen("", "", "10.0.0.8", NOON, NOON + timedelta(minutes=2), 1, "calling_ae_title", False, ""),
    PeerSeen("A\\x1b[2J", "PACS", "10.0.0.9", NOON, NOON + timedelta(minutes=1), 1, "calling_ae_title", False, ""),
    PeerSeen("*", "PACS", "10.0.0.9", NOON, NOON, 1, "accepted", False, ""),
    PeerSeen('#": [', "PACS", "10.0.0.9", NOON, NOON - timedelta(minutes=1), 1, "accepted", False, ""),
)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration whose server has seen some peers."""
    file = tmp_path / "pacs_server.yaml"
    file.write_text("storage: {fsync: false, min_free_space: 0}\n")
    with open_archive(load(file, environ={}, overrides={})) as parts:
        PeerIndex(parts.database).add(PEERS)
    return file


@pytest.fixture
def run(run: Any, config_file: Path) -> Run:
    return partial(run.lines, "--config", config_file)


@pytest.mark.slow
def test_the_list_has_the_last_one_first(run: Run) -> None:
    code, lines, _ = run("peers", "seen")
    assert code == 0
    assert lines[0].startswith("CALLING AE\tCALLED AE\tADDRESS\t")
    assert lines[1].split("\t") == [
        *("CT1", "PACS", "10.0.0.7", "2026-03-01 12:05:00", "2026-03-01 12:00:00", "3", "accepted", "yes", "SCANNER_2")
    ]
    assert [line.split("\t")[0] for line in lines[1:]] == ["CT1", "CT1", "CT1", "-", "A\\x1b[2J", "*", '#": [']


@pytest.mark.slow
def test_the_rejected_ones_alone(run: Run) -> None:
    code, lines, _ = run("peers", "seen", "--rejected")
    assert code == 0
    assert [line.split("\t")[6] for line in lines[1:]] == ["peer_address", "calling_ae_title", "calling_ae_title"]


def test_an_empty_list_says_that_a_server_may_be_behind(run: Run, config_file: Path) -> None:
    with closing(sqlite3.connect(config_file.parent / "pacs.db")) as index, index:
        index.execute("DELETE FROM peer_seen")
    code, lines, error = run("peers", "seen")
    assert (code, len(lines)) == (0, 1)
    assert error == "none yet; a running server is a minute behind at most\n"


def test_as_json(run: Run) -> None:
    code, lines, _ = run("peers", "seen", "--json", "--rejected")
    assert code == 0
    printed = json.loads("\n".join(lines))
    assert [peer["calling_ae"] for peer in printed] == ["CT1", "", "A\\x1b[2J"]
    assert printed[0]["last_seen_at"] == "2026-03-01 12:04:00+00:00"
    assert printed[0]["tls"] is True


def test_a_suggestion_can_be_pasted_and_lets_the_peer_in_from_where_it_was(run: Run, tmp_path: Path) -> None:
    code, lines, _ = run("peers", "seen", "--suggest", "CT1")
    assert code == 0
    assert '        - "10.0.0.7"  # 8 times, last 2026-03-01 12:05: accepted' in lines
    pasted = tmp_path / "pasted.yaml"
    pasted.write_text("\n".join(["access_control:", "  peers:", *lines]))
    access = load(pasted, environ={}, overrides={}).access_control
    assert access.peers[0].addresses == (ip_network("10.0.0.7"), ip_network("2001:db8::7"))
    assert access.peers[0].require_tls
    assert rule_for(Caller(Door.DIMSE, "10.0.0.7", "CT1", tls=True), access) is access.peers[0]
    assert rule_for(Caller(Door.DIMSE, "10.0.0.8", "CT1", tls=True), access) is Refusal.PEER_ADDRESS


@pytest.mark.parametrize(("title", "pattern"), [("*", "?"), ('#": [', '#": [')])
def test_a_suggestion_says_nothing_but_what_was_seen(run: Run, title: str, pattern: str) -> None:
    code, lines, _ = run("peers", "seen", "--suggest", title)
    assert code == 0
    (rule,) = yaml.safe_load("\n".join(lines))
    assert (rule["ae_title"], rule["addresses"]) == (pattern, ["10.0.0.9"])
    assert "require_tls" not in rule


@pytest.mark.parametrize(
    ("title", "sentence"),
    [("MR1", "no peer of the title MR1 was seen"), ("A\\x1b[2J", "that is no AE title"), ("", "that is no AE title")],
)
def test_no_suggestion(run: Run, title: str, sentence: str) -> None:
    code, lines, error = run("peers", "seen", "--suggest", title)
    assert (code, lines) == (1, [])
    assert error.startswith(f"pacs-server: {sentence}")
