"""The examples about testing run as tests of somebody else's project, and the plugin for pytest is as documented."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import npm
import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook

from pacs_server.testing import faults, pytest_plugin

PAGES = ("docs/testing.md", "docs/testing-clients.md")
PLUGIN = "pacs_server.testing.pytest_plugin"
MORE = """
import pytest

def test_by_the_configuration(pacs, pacs_shared):
    assert pacs.ae_title == pacs_shared.ae_title == "INI"
    assert pacs.port != pacs_shared.port

@pytest.mark.pacs(ae_title="MARKED", studies=[])
class TestMarked:
    @pytest.mark.pacs(tls=True)
    def test_by_markers(self, pacs):
        assert (pacs.ae_title, pacs.studies) == ("MARKED", [])
        assert pacs.tls_port is not None

def test_fails(pacs):
    assert pacs is None
"""


def ran(directory: Path, tests: Mapping[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    """Run tests with the plugin alone, as it is in this checkout."""
    for name, code in tests.items():
        (directory / f"test_{name}.py").write_text(code, encoding="utf-8")
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


@pytest.mark.slow
def test_examples_in_python_pass_and_a_failure_shows_what_came(
    code_blocks: Callable[[str, str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\npacs_ae_title = INI\n", encoding="utf-8")
    tests = {f"page{number}": "\n\n".join(code_blocks(page, "python")) for number, page in enumerate(PAGES)}
    result = ran(tmp_path, {**tests, "more": MORE}, "-W", "error::ResourceWarning")
    count = sum(code.count("def test_") for code in tests.values()) + 2
    assert f"1 failed, {count} passed" in result.stdout, result.stdout + result.stderr
    assert "FAILED test_more.py::test_fails" in result.stdout
    assert "- what came to pacs -" in result.stdout
    assert "  associations:\n    none\n  operations:\n    none\n" in result.stdout


@pytest.mark.slow
def test_example_in_node_passes(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    script = tmp_path / "pacs.test.mjs"
    script.write_text(code_blocks(PAGES[1], "javascript")[0], encoding="utf-8")
    result = subprocess.run(
        [npm.node(), "--test", str(npm.installed("dcmjs-dimse", ("dcmjs-dimse@0.3.3",), script))],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


class FakeConfig:
    """As much of pytest's as the plugin asks."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def getoption(self, name: str) -> Any:
        return self._options[name]

    def getini(self, name: str) -> Any:
        return {"pacs_ae_title": "INI", "pacs_studies": ["synthetic:ct=1"], "pacs_tls": False}[name]


def test_options_come_before_the_configuration() -> None:
    parser = pytest.Parser(_ispytest=True)
    pytest_plugin.pytest_addoption(parser)
    for line, expected in (
        ([], ("INI", ["synthetic:ct=1"], False)),
        (["--pacs-ae-title=X", "--pacs-studies", "a", "--pacs-studies", "b", "--pacs-tls"], ("X", ["a", "b"], True)),
    ):
        config: Any = FakeConfig(vars(parser.parse(line)))
        assert tuple(pytest_plugin._arguments(config).values()) == expected


def test_the_plugin_imports_nothing_of_the_server() -> None:
    code = f"import sys, {PLUGIN}; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    imported = result.stdout.split()
    assert [name for name in imported if name.startswith("pacs_server")] == [
        "pacs_server",
        "pacs_server.testing",
        PLUGIN,
    ]
    assert not {"pydicom", "pynetdicom", "sqlalchemy", "pydantic", "numpy", "starlette"} & set(imported)


def test_pytest_does_not_rewrite_the_server(pytestconfig: pytest.Config) -> None:
    hook = AssertionRewritingHook(pytestconfig)
    hook._must_rewrite |= {"pacs_server", "another_plugin"}
    manager = SimpleNamespace(rewrite_hook=hook)
    pytest_plugin.pytest_load_initial_conftests(cast(pytest.Config, SimpleNamespace(pluginmanager=manager)))
    assert hook._must_rewrite == {"another_plugin"}


def test_rules_options_and_attributes_are_documented(document: Callable[[str], str]) -> None:
    text = document(PAGES[0])
    rules = [name for name in vars(faults.Faults) if not name.startswith("_")]
    missing = [name for name in rules if f"| `{name}(" not in text]
    assert missing == ["remove", "clear", "take"]
    assert [name for name in faults.Which.__annotations__ if f"| `{name}=" not in text] == []
    for option in ("--pacs-ae-title", "--pacs-studies", "--pacs-tls"):
        assert f"`{option}`" in text
        assert f"`{option[2:].replace('-', '_')}`" in text
    assert [line.partition("(")[0] for line in pytest_plugin._MARKERS] == ["pacs", "pacs_fault"]
