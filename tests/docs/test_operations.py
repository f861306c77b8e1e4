"""Commands, metrics, signals, log messages, alert rules, errors and monitoring pages are documented, and no others."""

import re
import runpy
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from code_blocks import SHELL, blocks, commands

from pacs_server import __version__
from pacs_server.app.ports import Addresses
from pacs_server.app.welcome import welcome
from pacs_server.cli.main import app
from pacs_server.config import Config, ServerConfig
from pacs_server.errors import PacsError
from pacs_server.kit.metrics import GAUGES, Metrics, PollingCounts, RemoteCounts
from pacs_server.net import acceptor
from pacs_server.net.acceptor import Rejection
from pacs_server.scp import status as dimse_status
from pacs_server.scp.contexts import Service
from pacs_server.scp.rejections import REJECTIONS
from pacs_server.web.status import STATUS_OF

OPERATIONS, COMMANDS, LOGS = "docs/operations.md", "docs/commands.md", "docs/logs.md"
METRICS, RUNBOOK = "docs/metrics.md", "docs/runbook.md"
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (Path(__file__).parents[2] / "docs").glob("*.md"))]
Document = Callable[[str], str]


def _source(root: Path, name: str = "") -> str:
    if name:
        return (root / "pacs_server" / name).read_text(encoding="utf-8")
    return "".join(path.read_text(encoding="utf-8") for path in sorted((root / "pacs_server").rglob("*.py")))


def _commands() -> Iterator[tuple[str, Any]]:
    main: Any = typer.main.get_command(app)
    yield "", main
    for name, command in main.commands.items():
        # A group, as `worklist`, is its commands.
        commands = getattr(command, "commands", None)
        yield from [(name, command)] if commands is None else ((f"{name} {n}", c) for n, c in commands.items())


def test_the_reference_is_up_to_date(root: Path, document: Document) -> None:
    page = document(COMMANDS)
    generator = runpy.run_path(str(root / ".ci/command-reference"))
    assert page == generator["written_anew"](page), "say: make command-reference"
    reference = page.partition("## Reference")[2]
    for name, command in _commands():
        text = reference.partition(f"### {' '.join(['pacs-server', name]).strip()}\n")[2].partition("\n### ")[0]
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert [option for option in options - {"--config"} if f"{option}" not in text] == [], name


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_documented_that_is_not_there(document: Document, page: str) -> None:
    known = {name for name, _ in _commands() if name}
    groups = {name.partition(" ")[0] for name in known if " " in name}
    for first, second in re.findall(r"`pacs-server ([a-z][a-z-]*)(?: ([a-z]+))?", document(page)):
        assert first in known | groups, first
        assert not second or first not in groups or f"{first} {second}" in known, f"{first} {second}"


@pytest.fixture(scope="module")
def rendered() -> str:
    """The metrics after each of them has been used."""
    metrics = Metrics()
    metrics.association()
    metrics.rejected("calling_ae_title")
    metrics.request("C-ECHO", 0, 0.1)
    metrics.received(1)
    metrics.suboperations(1, 1, 1)
    metrics.matches(1)
    metrics.traffic(1, 1)
    metrics.web_request("api", "GET", 200, 0.1)
    metrics.web_traffic(1, 1)
    metrics.web_refused("slow_head")
    metrics.committed(0.1, 1)
    metrics.procedure_step("COMPLETED")
    metrics.commitment("reported")
    metrics.task("commitment", "done")
    metrics.watch_tasks(lambda: ({("commitment", "dead"): 1}, {"commitment": 1.0}))
    metrics.delivery("WS1", "delivered", 1)
    metrics.watch_remotes(lambda: [RemoteCounts("WS1", "ready", 1, 1, 1.0)])
    metrics.watch_polling(lambda: PollingCounts({("WS1", "complete"): 1}, {"WS1": (0, 1.0)}))
    metrics.worklist_input("hl7", accepted=True)
    metrics.reloaded(ok=True)
    metrics.recovered("indexed")
    metrics.checkpoint("done")
    metrics.scrubbed(1)
    metrics.watch_scrub(lambda: {"changed": 1})
    metrics.watch(lambda: dict.fromkeys(GAUGES, 1.0))
    return metrics.render().decode()


def test_metrics(rendered: str, rows: Callable[..., list[list[str]]]) -> None:
    kinds = dict(re.findall(r"^# TYPE (pacs_\w+) (\w+)$", rendered, re.MULTILINE))
    kinds = {name: kind for name, kind in kinds.items() if not name.endswith("_created")}
    documented = {row[0].strip("`"): row for row in rows(METRICS, "Metrics")}
    assert set(documented) == set(kinds)
    for name, kind in kinds.items():
        assert documented[name][1] == kind
        labels = set(re.findall(r"[{,](\w+)=", "".join(re.findall(rf"^{name}(?:_count)?({{.*?}}) ", rendered, re.M))))
        assert set(re.findall(r"\w+", documented[name][2])) == labels, name


def _alerts(code_blocks: Callable[[str, str], list[str]]) -> list[dict[str, Any]]:
    [block] = code_blocks(METRICS, "yaml")
    [group] = yaml.safe_load(block)["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_alert_rules_ask_for_metrics_that_are_there(
    code_blocks: Callable[[str, str], list[str]], rows: Callable[..., list[list[str]]], document: Document
) -> None:
    """Names, labels and values of labels; Prometheus itself is not asked."""
    metrics = {row[0].strip("`"): row for row in rows(METRICS, "Metrics")}
    refusals = document(METRICS).partition("Reasons of refusals:")[2].partition("\n\n")[0]
    for rule in _alerts(code_blocks):
        expression, summary = rule["expr"], rule["annotations"]["summary"]
        assert {*rule} <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert expression.count("(") == expression.count(")")
        named = re.findall(r"\b(pacs_\w+)(?:{(.*?)})?", expression)
        assert named or expression.startswith("up{"), expression
        for name, selectors in named:
            labels = set(re.findall(r"\w+", metrics[name][2]))
            assert set(re.findall(r"\$labels\.(\w+)", summary)) <= labels, rule
            for label, values in re.findall(r'(\w+)=~?"(.*?)"', selectors):
                assert label in labels, rule
                if label not in ("operation", "status"):
                    documented = refusals if label == "reason" else metrics[name][3]
                    assert all(f"`{value}`" in documented for value in values.split("|")), rule


def test_what_alarms_count_is_there_before_it_happens(code_blocks: Callable[[str, str], list[str]]) -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    rises = [each for rule in _alerts(code_blocks) for each in re.findall(r"increase\((\w+){(.*?)}", rule["expr"])]
    assert len(rises) >= 5
    page = Metrics().render().decode()
    for name, selectors in rises:
        labels = [(label, values.split("|")) for label, values in re.findall(r'(\w+)=~?"(.*?)"', selectors)]
        for chosen in product(*([f'{label}="{value}"' for value in values] for label, values in labels)):
            assert f"{name}{{{','.join(chosen)}}} 0.0" in page


def test_each_alarm_is_in_the_runbook(
    code_blocks: Callable[[str, str], list[str]], rows: Callable[..., list[list[str]]]
) -> None:
    alarms = [row[0].strip("`") for row in rows(RUNBOOK, "Alarms")]
    assert sorted(alarms) == sorted(rule["alert"] for rule in _alerts(code_blocks))


def _below(error: type[PacsError]) -> Iterator[type[PacsError]]:
    for each in error.__subclasses__():
        yield from (each, *_below(each))


def test_each_error_is_in_the_runbook(rows: Callable[..., list[list[str]]]) -> None:
    documented = {row[0].strip("`"): row for row in rows(RUNBOOK, "Errors")}
    errors = {each.__name__: each for each in _below(PacsError) if each.__module__ == "pacs_server.errors"}
    assert set(documented) == set(errors)
    for name, error in errors.items():
        _, dimse, http, why, what_to_do = documented[name]
        assert (int(dimse, 16), int(http)) == (dimse_status.STATUS_OF[Service.STORAGE][error], STATUS_OF[error]), name
        assert all((why, what_to_do)), name


def test_reasons_of_refusals(root: Path, document: Document) -> None:
    known = {r.name for r in (*vars(acceptor).values(), *REJECTIONS) if isinstance(r, Rejection)}
    known |= set(re.findall(r'return "(\w+)"', _source(root, "net/listener.py")))
    known |= set(re.findall(r'why = "(\w+)"', _source(root, "scp/entity.py"))) - {"lost"}
    known |= {"tls_handshake", "connection"}
    documented = document(METRICS).partition("Reasons of refusals:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", documented)) == known


_HTTP_PORT = ("head", "reader", "protocol", "limits", "server", "exchange")


def test_reasons_of_refused_http_clients(root: Path, rows: Callable[..., list[list[str]]]) -> None:
    source = "".join(_source(root, f"web/{name}.py") for name in _HTTP_PORT)
    known = set(re.findall(r'Refusal\(\s*\d+, "(\w+)"', source))
    known |= set(re.findall(r'return "(connections\w*)"', source)) | set(re.findall(r'cut\("(\w+)"\)', source))
    known.add("tls_handshake")
    documented = {name for row in rows(METRICS, "HTTP ports") for name in re.findall(r"`(\w+)`", row[0])}
    assert documented - {"reason", "pacs_web_refused_total"} == known


def test_log_messages_exist(root: Path, rows: Callable[..., list[list[str]]]) -> None:
    messages = [row[0].strip("`") for row in rows(LOGS, "Messages") if row[0]]
    assert len(messages) >= 5
    source = _source(root)
    call = r'(?:log|sparingly|self)\.\w+\(\s*[^"]*'
    assert [message for message in messages if not re.search(f'{call}"{message}"', source)] == []


def test_signals(root: Path, rows: Callable[..., list[list[str]]]) -> None:
    handled = set(re.findall(r"signal\.(SIG\w+)", _source(root, "app/server.py")))
    assert set(re.findall(r"SIG[A-Z]+", " ".join(row[0] for row in rows(OPERATIONS, "Start, reload, stop")))) == handled


def test_monitoring_pages(root: Path, rows: Callable[..., list[list[str]]]) -> None:
    pages = set(re.findall(r'"(/[a-z]+)": ', _source(root, "web/monitor.py")))
    assert pages
    assert {row[0].strip("`") for row in rows(METRICS, "Monitoring") if row[0].startswith("`/")} == pages


def test_the_changelog_has_this_version(document: Document) -> None:
    assert f"## [{__version__}]" in document("CHANGELOG.md")


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_people_copy_name_the_configuration(document: Document, page: str) -> None:
    """Each line has --config, or the page has named the variable before."""
    lines = document(page).splitlines(keepends=True)
    for block in blocks(page):
        told = "PACS_SERVER_CONFIG" in "".join(lines[: block.line - 1]) + block.text
        for command in commands(block) if block.language in SHELL else ():
            # Studies of nobody are made without an archive.
            if re.match(r"(?:[A-Z_]+=\S+ )?pacs-server (?!synthetic )[a-z]", command.text):
                assert told or "--config" in command.text, command.text


def test_the_tour_shows_what_the_server_prints(document: Document) -> None:
    config = Config(server=ServerConfig(ae_title="CLINIC"))
    said = welcome(config, Addresses(("127.0.0.1", 11112), monitoring=("127.0.0.1", 9090), web=("127.0.0.1", 8080)))
    tour = document("docs/tutorial.md")
    assert "$ pacs-server --config pacs_server.yaml\n" + "".join(f"{line}\n" for line in said) in tour
