"""The examples of docs/testing.md run, as the tests of somebody else's project."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = "docs/testing.md"
PLUGIN = "pacs_server.testing.pytest_plugin"


def ran(directory: Path, code: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run tests with the plugin alone, as it is in this checkout."""
    (directory / "test_examples.py").write_text(code, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", PLUGIN, "-p", "no:cacheprovider", *options],
        cwd=directory,
        env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_examples_pass(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    code = "\n\n".join(code_blocks(PAGE, "python"))
    result = ran(tmp_path, code)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{code.count('def test_')} passed" in result.stdout
