"""Completion in the shell: the scripts, and what the program answers them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_server.cli.completion import Shell

Run = Callable[..., tuple[int, str, str]]

PROGRAM = f"#!{sys.executable}\nfrom pacs_server.cli.main import main\nmain()\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program as it is installed, in a directory of its own."""
    path = tmp_path / "bin" / "pacs-server"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def completed(program: Path, shell: str, script: str) -> list[str]:
    """What a shell prints when it runs `script` after it has read the completion script."""
    path = f"{program.parent}:/usr/bin:/bin"
    environ = {"PATH": path, "HOME": str(program.parent), "PYTHONPATH": ":".join(filter(None, sys.path))}
    printed = subprocess.run([program, "completion", shell], capture_output=True, text=True, env=environ, check=True)
    command = [shell, "-c", f"{printed.stdout}\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("pacs-server back", ["backup"]),
        ("pacs-server worklist up", ["update"]),
        ("pacs-server backup --ver", ["--verify"]),
        ("pacs-server completion ", ["bash", "zsh", "fish"]),
        ("pacs-server import /no", []),
    ],
)
def test_bash(program: Path, typed: str, expected: list[str]) -> None:
    words = typed.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}; _pacs_server_completion pacs-server; "
    assert completed(program, "bash", script + 'printf "%s\\n" "${COMPREPLY[@]}"') == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(program: Path) -> None:
    found = completed(program, "fish", "complete -C 'pacs-server worklist up'")
    assert found[0] == "update"


@pytest.mark.parametrize("shell", Shell)
def test_the_script_of_each_shell(run: Run, shell: Shell) -> None:
    code, printed, error = run("completion", shell.value)
    assert (code, error) == (0, "")
    assert f"_PACS_SERVER_COMPLETE=complete_{shell.value}" in printed


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_what_the_other_shells_ask_for(run: Run, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_PACS_SERVER_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "pacs-server trash em")
    code, printed, _ = run()
    assert code == 0
    assert "empty" in printed
    assert "restore" not in printed


def test_another_shell_is_refused(run: Run) -> None:
    code, _, error = run("completion", "tcsh")
    assert code == 2
    assert "'bash', 'zsh', 'fish'" in error
