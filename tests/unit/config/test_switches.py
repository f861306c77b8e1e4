"""A section that may be a plain true or false."""

from pathlib import Path

import pytest

from pacs_server.config.load import load
from pacs_server.errors import ConfigError


@pytest.mark.parametrize("text", ["true", "false", "{enabled: true}", "{lifetime: 1d}", ""])
def test_share_links_are_a_switch_or_a_section(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pacs_server.yaml"
    file.write_text(f"web:\n  share_links: {text}\n")
    config = load(file, environ={}, overrides={})
    assert config.web.share_links.enabled is ("true" in text)
    assert config.web.share_links.lifetime == (86_400 if "1d" in text else 7 * 86_400)
    if "enabled" in text or text in ("true", "false"):
        assert config.origins["web.share_links.enabled"] == f"{file} line 2"


def test_the_environment_switches_too_and_comes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pacs_server.yaml"
    file.write_text("web:\n  share_links: true\n")
    environ = {"PACS_SERVER__WEB__SHARE_LINKS": "false", "PACS_SERVER__WEB__SHARE_LINKS__LIFETIME": "2d"}
    links = load(file, environ=environ, overrides={}).web.share_links
    assert (links.enabled, links.lifetime) == (False, 2 * 86_400)


@pytest.mark.parametrize("section", ["share_links: 1", "share_links: [true]", "sessions: true"])
def test_nothing_else_is_a_switch(tmp_path: Path, section: str) -> None:
    file = tmp_path / "pacs_server.yaml"
    file.write_text(f"web:\n  {section}\n")
    with pytest.raises(ConfigError, match="is not a mapping of keys to values"):
        load(file, environ={}, overrides={})
