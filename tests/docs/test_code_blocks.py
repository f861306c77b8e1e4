"""Every code block of README.md and docs/ is held by its language: it runs, loads or is parsed.

A block without a language, in a new language, or with a program that nobody knows here fails.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_lines
import pytest
import yaml
from code_blocks import PAGES, ROOT, SHELL, Block, blocks, commands, shows
from stages import STAGES, Stage

from pacs_server.config.load import load
from pacs_server.config.model import Config

BLOCKS = [block for page in PAGES for block in blocks(page)]

# Tests that run the blocks of a page in these languages, or hold them in another way.
ELSEWHERE = {
    ("docs/architecture.md", "mermaid"): "tests/docs/test_architecture.py",
    ("docs/architecture.md", "python"): "tests/docs/test_architecture.py",
    ("docs/architecture.md", "text"): "tests/docs/test_architecture.py",
    ("docs/embedding.md", "python"): "tests/docs/test_embedding.py",
    ("docs/extending.md", "python"): "tests/docs/test_extending.py",
    ("docs/testing.md", "python"): "tests/docs/test_testing.py",
    ("docs/testing-clients.md", "python"): "tests/docs/test_testing.py",
    ("docs/testing-clients.md", "javascript"): "tests/docs/test_testing.py",
    ("docs/metrics.md", "yaml"): "tests/docs/test_operations.py",
    ("docs/access-control.md", "yaml"): "tests/docs/test_access_control.py",
    ("docs/security.md", "nginx"): "tests/browser/test_behind_nginx.py",
    ("docs/rest-api.md", "sh"): "tests/docs/test_rest_api.py",
    ("docs/tls.md", "sh"): "tests/docs/test_tls.py",
    ("docs/tutorial.md", "console"): "tests/interop/test_tutorial.py",
    ("docs/logs.md", "text"): "tests/stages.py",
    ("docs/commands.md", "text"): "tests/docs/test_operations.py",
}

# What is not run, and why: blocks by their page and language, commands by how they begin, with or without their page.
# They are checked as far as they can be without being run.
NOT_RUN = {
    "docs/testing-clients.md java": "needs a JDK and the libraries of dcm4che",
    "docs/testing-clients.md csharp": "needs .NET and the library fo-dicom",
    "docs/security.md haproxy": "HAProxy is not installed where the tests run",
    "python3 -m venv /opt/pacs-server": "writes outside of the directory of the tests",
    "/opt/pacs-server/bin/": "needs the environment of the line before; make check-wheel makes such a one",
    "pip install": "downloads; make check-wheel installs the wheel",
    ".venv/bin/pip freeze": "takes part in the installation of the line after it",
    "useradd": "needs root",
    "install -m 644": "needs root; a test asks systemd whether it understands the unit",
    "systemctl": "needs root and systemd",
    "chown 10001": "needs root",
    "journalctl": "needs the journal of systemd",
    "docker compose": "needs Docker and downloads; a test holds the files of Docker against the code",
    "make install": "installs into the environment in which the tests run",
    "make test-fast": "runs tests",
    "make check": "runs tests",
    ".ci/run": "runs all tests",
    "make migration": "writes into the repository",
    ".venv/bin/python -m benchmarks.": "takes minutes, and a machine to itself",
    "docs/tutorial.md export PACS_SERVER_CONFIG": "the test of the tutorial has set the variable",
    "docs/tutorial.md pacs-server user add": "the same is run for README.md",
}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_block_is_held(block: Block, tmp_path: Path) -> None:
    assert block.language in HOLDERS, f"{block}: the language {block.language!r} is held by nothing"
    HOLDERS[block.language](block, tmp_path)


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", STAGES)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, page)
    found = [command for block in blocks(page) if block.language in SHELL for command in commands(block)]
    # A key that is made ends the time in which nobody needs one.
    ordered = sorted(found, key=lambda command: "$KEY" in command.text)
    with STAGES[page](stage):
        for command in ordered:
            if _reason(page, command.text):
                continue
            code, printed = stage.run(command.text)
            failure = any(line.startswith("pacs-server: ") for line in command.printed)
            assert (code != 0) is failure, f"{page}: {command.text}: {code}: {printed}"
            missing = [line for line in command.printed if not shows(printed, stage.shell.here(line))]
            assert missing == [], f"{page}: {command.text}: {printed}"
    assert stage.shown == {block.text for block in blocks(page) if block.language == "text"}


def _reason(page: str, command: str) -> str | None:
    texts = (command, f"{page} {command}")
    return next((NOT_RUN[one] for one in NOT_RUN if any(text.startswith(one) for text in texts)), None)


def test_nothing_is_listed_that_is_not_on_a_page() -> None:
    known = {(block.page, block.language) for block in BLOCKS}
    assert ELSEWHERE.keys() <= known
    assert STAGES.keys() <= {page for page, _ in known}
    texts = [f"{page} {language}" for page, language in known]
    for block in (block for block in BLOCKS if block.language in SHELL):
        texts += [text for each in commands(block) for text in (each.text, f"{block.page} {each.text}")]
    assert [beginning for beginning in NOT_RUN if not any(text.startswith(beginning) for text in texts)] == []
    for (page, _), file in ELSEWHERE.items():
        assert Path(page).name in (ROOT / file).read_text(encoding="utf-8"), file


# ------------------------------------------------------------------------------------ what holds a block of a language


def _shell(block: Block, _: Path) -> None:
    """Programs, options and files are there, and each command runs or is listed."""
    found = commands(block)
    assert found, f"{block}: no command"
    for command in found:
        command_lines.check(command.text)
        runs = block.page in STAGES or (block.page, block.language) in ELSEWHERE
        assert runs or _reason(block.page, command.text), f"{block}: nothing runs {command.text}"


def _yaml(block: Block, directory: Path) -> None:
    """It loads as what its keys say that it is."""
    document = yaml.safe_load(block.text)
    assert isinstance(document, dict), block
    if document.keys() == {"groups"}:
        assert (block.page, block.language) in ELSEWHERE
    elif "jobs" in document:
        _workflow_of_github(document)
    elif block.text.startswith(" "):
        # Some lines to add to others, which the test of the page loads with them.
        assert (block.page, block.language) in ELSEWHERE
    else:
        _configuration(block.text, {*document}, directory)


def _configuration(text: str, keys: set[str], directory: Path) -> None:
    """It loads, with the files that it names, the remote that it speaks of, and a rule around changes."""
    if keys == {"changes"}:
        inside = textwrap.indent(text, "      ")
        text, keys = f"routing:\n  rules:\n    - name: changed\n      forward: WS1\n{inside}", {"routing"}
    assert keys <= Config.model_fields.keys()
    if "remote_aes" not in keys:
        text += "remote_aes: [{ae_title: WS1, host: 127.0.0.1, port: 104}]\n"
    text = re.sub(r"/run/secrets/|/etc/pacs-server/", "secrets/", text)
    for name in re.findall(r"(?:file:|_file: (?:\./)?)([\w./-]+)", text):
        (directory / name).parent.mkdir(exist_ok=True)
        secret = "postgresql://db/pacs" if name.endswith("_url") else "a secret that is long enough to be one"
        (directory / name).write_text(f"{secret}\n")
    (directory / "pacs_server.yaml").write_text(text)
    load(directory / "pacs_server.yaml", environ={}, overrides={})


def _workflow_of_github(document: dict[str, Any]) -> None:
    for job in document["jobs"].values():
        assert job["runs-on"].startswith("ubuntu-")
        for step in job["steps"]:
            assert step.keys() <= {"uses", "with", "run"}
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))
            assert step.get("run", "pytest").split()[0] in ("pip", "pytest", "npm", "node")


def _json(block: Block, _: Path) -> None:
    """It is JSON, and the code has a text for each of its keys."""
    keys: set[str] = set()
    json.loads(block.text, object_hook=keys.update)
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "pacs_server").rglob("*.py")))
    assert [key for key in sorted(keys) if f'"{key}"' not in source] == []


def _python(block: Block, _: Path) -> None:
    ast.parse(block.text)
    assert (block.page, "python") in ELSEWHERE, f"{block}: nothing runs it"


def _text(block: Block, _: Path) -> None:
    held = block.page in STAGES or (block.page, "text") in ELSEWHERE
    assert held, f"{block}: nothing compares it with what was printed"


_NODE = r"\w+(?:\[[^\]]+\]|\[\([^)]+\)\])?"
_FLOW = rf"flowchart [LT][RBD]|subgraph \w+ \[[^\]]+\]|end|{_NODE}(?: (?:-->|-- \"[^\"]+\" -->) {_NODE})*"
_SEQUENCE = r"sequenceDiagram|autonumber|participant \w+ as [^;]+|\w+--?>>\w+: [^;]+"


def _mermaid(block: Block, _: Path) -> None:
    """Each line is one of those that the drawings use, and arrows go between what is declared."""
    kind = _FLOW if block.text.startswith("flowchart ") else _SEQUENCE
    lines = [line.strip() for line in block.text.splitlines()]
    assert [line for line in lines if not re.fullmatch(kind, line)] == []
    assert sum(line.startswith("subgraph") for line in lines) == lines.count("end")
    declared = set(re.findall(r"participant (\w+)", block.text))
    used = {name for ends in re.findall(r"(\w+)--?>>(\w+):", block.text) for name in ends}
    assert declared == used


def _nginx(block: Block, directory: Path) -> None:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert os.environ.get("CI") != "true", "nginx is not installed"
        pytest.skip("nginx is not installed")
    temporary = "".join(
        f"{name}_temp_path {directory};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    server = f"server {{ listen 127.0.0.1:1; location / {{ {block.text} proxy_pass http://127.0.0.1:8080; }} }}"
    text = f"pid {directory}/pid; events {{}} http {{ access_log off; {temporary} {server} }}"
    (directory / "nginx.conf").write_text(text)
    command = [program, "-t", "-q", "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _in_another_language(block: Block, _: Path) -> None:
    held = (block.page, block.language) in ELSEWHERE or f"{block.page} {block.language}" in NOT_RUN
    assert held, f"{block}: nothing holds it, and it is not listed"
    assert all(block.text.count(one) == block.text.count(other) for one, other in ("()", "[]", "{}"))


HOLDERS: dict[str, Callable[[Block, Path], None]] = {
    "console": _shell,
    "sh": _shell,
    "yaml": _yaml,
    "json": _json,
    "python": _python,
    "text": _text,
    "mermaid": _mermaid,
    "nginx": _nginx,
    **dict.fromkeys(("javascript", "java", "csharp", "haproxy"), _in_another_language),
}
