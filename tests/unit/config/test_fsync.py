"""The setting `storage.fsync`, which was true or false once."""

from pathlib import Path

import pytest

from pacs_server.config.load import load

SPELLINGS = [
    *(("slots", "slots"), ("each", "each"), ("off", "off"), ("true", "slots"), ("false", "off")),
    *(("yes", "slots"), ("no", "off"), ("on", "slots")),
]


@pytest.mark.parametrize(("text", "meant"), SPELLINGS)
def test_in_the_file_and_in_the_environment(tmp_path: Path, text: str, meant: str) -> None:
    file = tmp_path / "pacs.yaml"
    file.write_text(f"storage:\n  fsync: {text}\n")
    assert load(file, environ={}, overrides={}).storage.fsync == meant
    assert load(None, environ={"PACS_SERVER__STORAGE__FSYNC": text}, overrides={}).storage.fsync == meant
