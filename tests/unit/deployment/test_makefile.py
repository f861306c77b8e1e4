"""What `make run` says and does, with a Python that installs nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Takes the place of python3: makes a virtual environment of two scripts that say what they are called with.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    for name in python pacs-server; do
        printf '#!/bin/sh\\necho "%s $*"\\n' $name > "$3/bin/$name"
        chmod +x "$3/bin/$name"
    done
fi
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def said(checkout: Path) -> list[str]:
    command = ["make", "run", f"PYTHON={checkout / 'python'}"]
    # The tests may have been started by make.
    environ = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_the_first_run_says_each_step_before_it_takes_it(checkout: Path) -> None:
    made, installing, installed, starting, started = said(checkout)
    assert made == "making a virtual environment in .venv"
    assert installing.startswith("installing the server and its libraries in .venv")
    assert installed.startswith("python -m pip install ")
    assert starting == "starting the server with its defaults; the archive is kept in this directory"
    assert started == "pacs-server "


def test_later_runs_only_start_the_server(checkout: Path) -> None:
    said(checkout)
    (checkout / "pacs_server.yaml").touch()
    assert said(checkout) == [
        "starting the server with pacs_server.yaml",
        "pacs-server --config pacs_server.yaml",
    ]
