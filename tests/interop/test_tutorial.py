"""The tutorial: each of its commands does what the page shows, with DCMTK's tools and free ports."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import dcmtk
import pytest
from code_blocks import Block, commands, shows
from processes import clean_environment
from servers import eventually, free_port

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
# What is started and stays, in terminals of its own.
_SERVERS = ("pacs-server --config", "storescp")
# The names of ports on the page.
_PORTS = ("11112", "11113", "9090", "8080")


def typed(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each command of the page, with the lines that it prints there."""
    for code in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for command in commands(Block("docs/tutorial.md", 0, "console", code)):
            yield command.text, command.printed


def environment(directory: Path) -> dict[str, str]:
    tools = f"{Path(sys.executable).parent}"
    # DCMTK's tools come first: pynetdicom has some of the same names.
    own = clean_environment(PACS_SERVER_CONFIG=str(directory / "pacs_server.yaml"))
    return own | {"PATH": f"{Path(dcmtk.require('storescu')).parent}:{tools}:{os.environ['PATH']}"}


def test_the_day_goes_as_the_page_says(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    ports = {name: str(free_port()) for name in _PORTS}
    for name, port in ports.items():
        text = re.sub(rf"\b{name}\b", port, text)
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    other = f"web: {{port: {ports['8080']}}}\nmonitoring: {{metrics_port: {ports['9090']}}}\n"
    settings = settings.replace("server:\n", f"server:\n  port: {ports['11112']}\n", 1)
    (tmp_path / "pacs_server.yaml").write_text(settings + other, encoding="utf-8")
    running: list[subprocess.Popen[str]] = []
    try:
        for command, printed in typed(text):
            if any(each in command for each in _SERVERS):
                running.append(_started(command, printed, tmp_path))
                continue
            if "ls reading" in command:
                eventually(lambda: len(list((tmp_path / "reading").iterdir())) == 3)
            done = _ran(command, tmp_path)
            assert done.returncode == 0, (command, done.stdout)
            for line in printed:
                assert shows(done.stdout, line), (command, line, done.stdout)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)


def _started(command: str, printed: Sequence[str], directory: Path) -> "subprocess.Popen[str]":
    """Start what stays, and wait until it has printed what the page shows, or listens."""
    out = directory / f"{command.split(maxsplit=1)[0]}.out"
    with out.open("w", encoding="utf-8") as log:
        *before, server = command.split("&&")
        for each in before:
            assert _ran(each, directory).returncode == 0
        process = subprocess.Popen(
            ["bash", "-c", f"exec {server}"], cwd=directory, env=environment(directory), stdout=log, text=True
        )
    if printed:
        expected = "".join(f"{line}\n" for line in printed)
        assert eventually(lambda: expected in out.read_text(encoding="utf-8")), out.read_text(encoding="utf-8")
    return process


def _ran(command: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command; a variable that it sets is there for the following ones, as in one terminal."""
    kept = directory / "variables"
    script = (
        f'[ -f {kept} ] && . {kept}\n{command}\nstatus=$?\n[ -n "$STUDY" ] && declare -p STUDY > {kept}\nexit $status'
    )
    return subprocess.run(
        ["bash", "-c", script],
        cwd=directory, env=environment(directory), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=120, check=False,
    )  # fmt: skip
