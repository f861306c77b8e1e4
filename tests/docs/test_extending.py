"""The examples of a door, a storage and a kind of task run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = "docs/extending.md"


def test_examples_run(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    code = "\n\n".join([*code_blocks(PAGE, "python"), "print('all done')\n"])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PACS_SERVER__")}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "all done\n"), result.stderr
    assert list(tmp_path.iterdir()) == []
