"""The plugin for pytest: the fixtures `pacs` and `pacs_shared`. The server is imported when one of them is used."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pacs_server.testing.temporary import TemporaryPacs

_MARKERS = (
    "pacs(ae_title=, studies=, destinations=, tls=, settings=): set up the server of the fixture `pacs` for this test",
    "pacs_fault(name, ...): make the server of the fixture `pacs` fail, by a method of `pacs.faults`",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the settings of the fixtures."""
    group = parser.getgroup("pacs", "a PACS for tests")
    group.addoption("--pacs-ae-title", help="the AE title of the servers of `pacs` and `pacs_shared`")
    group.addoption(
        "--pacs-studies", action="append", metavar="WHAT",
        help="what these servers contain: a file, a folder, or synthetic:ct=2; may be given several times",
    )  # fmt: skip
    group.addoption("--pacs-tls", action="store_true", default=None, help="let these servers use TLS as well")
    parser.addini("pacs_ae_title", "the default of --pacs-ae-title", default="PACS")
    parser.addini("pacs_studies", "the default of --pacs-studies", type="linelist", default=[])
    parser.addini("pacs_tls", "the default of --pacs-tls", type="bool", default=False)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Have pytest import the server as it is.

    pytest rewrites the assertions of everything that is installed together with a plugin, and for all modules of
    the server that takes as long as importing them.
    """
    hook = getattr(early_config.pluginmanager, "rewrite_hook", None)
    marked = getattr(hook, "_must_rewrite", None)
    if isinstance(marked, set):
        marked.discard("pacs_server")


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture
def pacs(request: pytest.FixtureRequest) -> "Iterator[TemporaryPacs]":
    """A fresh PACS for this test, on free ports. See `pacs_server.testing.TemporaryPacs`."""
    from pacs_server.testing.temporary import temporary_pacs

    arguments = _arguments(request.config)
    for marker in reversed(list(request.node.iter_markers("pacs"))):
        arguments.update(marker.kwargs)
    with temporary_pacs(**arguments) as server:
        for marker in request.node.iter_markers("pacs_fault"):
            name, *rest = marker.args
            getattr(server.faults, name)(*rest, **marker.kwargs)
        yield server


@pytest.fixture(scope="session")
def pacs_shared(request: pytest.FixtureRequest) -> "Iterator[TemporaryPacs]":
    """A PACS that all tests of the session share, and so must not mind what others have stored."""
    from pacs_server.testing.temporary import temporary_pacs

    with temporary_pacs(**_arguments(request.config)) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Any:
    """Show what came to the server of a test that failed."""
    report = yield
    servers = getattr(item, "funcargs", {})
    for name in ("pacs", "pacs_shared"):
        described = getattr(servers.get(name), "described", None)
        if report.when == "call" and report.failed and described is not None:
            report.sections.append((f"what came to {name}", described().strip("\n")))
    return report


def _arguments(config: pytest.Config) -> dict[str, Any]:
    """The arguments of `temporary_pacs` by command line and configuration."""

    def setting(name: str) -> Any:
        given = config.getoption(f"pacs_{name}")
        return config.getini(f"pacs_{name}") if given is None else given

    return {name: setting(name) for name in ("ae_title", "studies", "tls")}
