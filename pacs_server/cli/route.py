"""The commands of routing rules: which there are, and what they would do with a study."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from pacs_server.cli.find import JSONOption, json_text
from pacs_server.cli.options import ConfigOption, load_config, open_archive
from pacs_server.cli.show import StudyArgument, studies_named
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.config.model import Config
    from pacs_server.services.routing import Rule
    from pacs_server.services.rule_engine import Verdict

app = typer.Typer(help="Routing rules.", no_args_is_help=True)


@app.command("list")
def list_rules(context: typer.Context, *, as_json: JSONOption = False, config: ConfigOption = None) -> None:
    """List the rules in their order, with what they match and what they do."""
    from pacs_server.services.routing import compile_rules

    settings = load_config(context, config)
    compile_rules(settings)
    rules = settings.routing.rules
    if as_json:
        typer.echo(json_text([rule.model_dump(exclude_defaults=True) for rule in rules], indent=1))
        return
    rows = (
        (rule.name, rule.when if rule.enabled else f"{rule.when} (off)", _matching(rule.match), ", ".join(done(rule)))
        for rule in rules
    )
    print_table(("NAME", "WHEN", "MATCH", "DOES"), rows, wrapping=("DOES",))
    if not rules:
        typer.echo("no rules: routing.rules is empty", err=True)


@app.command("test")
def dry_run(
    context: typer.Context, study: StudyArgument, *, as_json: JSONOption = False, config: ConfigOption = None
) -> None:
    """Show what each rule would do with a study if it arrived now, or why it would do nothing. Changes nothing."""
    from pacs_server.index.routing import RoutingIndex
    from pacs_server.services.routing import compile_rules
    from pacs_server.services.rule_engine import RuleEngine

    with open_archive(context, config) as archive:
        settings = archive.config()
        rules = compile_rules(settings)
        uid = studies_named(archive, study)[0]["StudyInstanceUID"]
        instances, verdicts = RuleEngine(RoutingIndex(archive.database), lambda: rules).test(uid)
    if as_json:
        told = [_as_json(each, settings) for each in verdicts]
        typer.echo(json_text({"StudyInstanceUID": uid, "rules": told}, indent=1))
        return
    typer.echo(f"{uid}: {counted(instances, 'instance')}")
    print_table(
        ("RULE", "WHEN", "INSTANCES", "DOES, OR WHY NOT"),
        (_cells(each, settings) for each in verdicts),
        wrapping=("DOES, OR WHY NOT",),
    )
    if not verdicts:
        typer.echo("no rules: routing.rules is empty, or all of them are off", err=True)


def done(rule: Any) -> Iterator[str]:
    """What a rule does, in words."""
    for name in rule.forward:
        yield f"forward to {name}"
    if rule.changes or rule.deidentify or rule.compress:
        changes = [counted(len(rule.changes), "change")] if rule.changes else []
        changes += ["de-identified"] if rule.deidentify else []
        yield f"as {', '.join([*changes, *([rule.compress] if rule.compress else [])])}"
    if rule.webhook:
        yield "call a webhook"
    yield from (f"label {each}" for each in rule.label)
    if rule.assign:
        yield f"assign to {rule.assign}"
    if rule.reading:
        yield f"set to {rule.reading}"
    if rule.priority:
        yield f"priority {rule.priority}"


def _matching(match: Any) -> str:
    return "; ".join(f"{key}: {', '.join(patterns)}" for key, patterns in match.items()) or "everything"


def _does(verdict: "Verdict", settings: "Config") -> list[str]:
    from pacs_server.services.actions import circles

    assert verdict.decision is not None
    return [*done(verdict.rule.settings), *circles(settings, verdict.decision)]


def _cells(verdict: "Verdict", settings: "Config") -> tuple[str, ...]:
    rule: Rule = verdict.rule
    does = ", ".join(_does(verdict, settings)) if verdict.decision else verdict.reason
    return rule.name, rule.settings.when, str(verdict.instances), does


def _as_json(verdict: "Verdict", settings: "Config") -> dict[str, Any]:
    told = {"rule": verdict.rule.name, "when": verdict.rule.settings.when, "instances": verdict.instances}
    return told | ({"does": _does(verdict, settings)} if verdict.decision else {"reason": verdict.reason})
