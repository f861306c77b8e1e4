"""The snippets about embedding run."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = "docs/embedding.md"


def test_snippet_runs(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    code = code_blocks(PAGE, "python")[0]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PACS_SERVER__")}
    result = subprocess.run(
        [sys.executable, "-c", code + "\n    print('served')\n"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "served\n"), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_fixture_uses_what_the_snippet_imports(code_blocks: Callable[[str, str], list[str]]) -> None:
    first, second = (ast.parse(code) for code in code_blocks(PAGE, "python"))
    imported = {alias.name for node in ast.walk(first) if isinstance(node, ast.ImportFrom) for alias in node.names}
    used = {node.id for node in ast.walk(second) if isinstance(node, ast.Name) and node.id[0].isupper()}
    assert used <= imported
