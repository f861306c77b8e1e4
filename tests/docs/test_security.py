"""The security page names settings, tests, files and commands that are there."""

import re
from collections.abc import Callable
from pathlib import Path

from pacs_server.config import Config, PeerRule, RemoteAEConfig
from pacs_server.config.model import setting

PAGE = "docs/security.md"
Document = Callable[[str], str]


def test_every_setting_that_is_named_exists(document: Document) -> None:
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)(?:: \w+)?`", document(PAGE)))
    assert len(named) > 30
    for key in named:
        setting(Config(), key)


def test_so_do_keys_of_rules_and_remotes(document: Document) -> None:
    for key in ("certificate", "move_destinations", "max_data_rate"):
        assert f"`{key}`" in document(PAGE)
        assert key in PeerRule.model_fields
    assert "Set `tls` for each of `remote_aes`" in document(PAGE)
    assert "tls" in RemoteAEConfig.model_fields


def test_each_threat_has_a_protection_and_a_test(root: Path, rows: Callable[..., list[list[str]]]) -> None:
    threats = rows(PAGE, "Threats")
    assert len(threats) > 10
    for threat, protection, tested in threats:
        assert protection, threat
        files = re.findall(r"`(\S+)`", tested)
        assert files, threat
        assert [file for file in files if not (root / file).is_file()] == [], threat


def test_metrics_log_messages_and_commands_are_those_of_operations(document: Document) -> None:
    page = document(PAGE)
    operations = "".join(document(f"docs/{name}.md") for name in ("commands", "logs", "metrics"))
    named = re.findall(r"`(pacs_\w+|pacs-server [a-z -]+|operation failed unexpectedly)`", page)
    assert len(named) >= 8
    missing = [name for name in named if name.partition(" --")[0] not in operations]
    assert missing == []


def test_the_steps_are_numbered_in_order(document: Document) -> None:
    steps = document(PAGE).partition("## Hardening")[2].partition("\n## ")[0]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \*\*", steps, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers
