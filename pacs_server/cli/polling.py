"""`pacs-server polling`: what the archive fetches by itself from remotes, and how far that is."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, age, echo, fail, load_config, open_archive
from pacs_server.cli.tables import print_table

if TYPE_CHECKING:
    from pacs_server.config.sections.polling import PollingConfig
    from pacs_server.index.remote_studies import PollingState, RemoteStudy

app = typer.Typer(help="Polling: what the server fetches regularly from remotes.", rich_markup_mode=None)

_ENTRIES = ("NAME", "REMOTE", "EVERY", "ASKED", "ANSWERED", "STUDIES", "TO FETCH", "FAILURES", "REASON")
_STUDIES = (
    "STUDY",
    "REMOTE",
    "STATE",
    "PRIORITY",
    "PATIENT ID",
    "DATE",
    "MODALITIES",
    "THERE",
    "AGE",
    "TASK",
    "REASON",
)

JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(context: typer.Context, as_json: JSONOption = False, config: ConfigOption = None) -> None:
    """List the polling entries: when each remote was searched and what it answered."""
    entries = load_config(context, config).polling
    with open_archive(context, config) as archive:
        states = archive.polling.states()
    if as_json:
        rows = [each.model_dump() | (asdict(states[each.name]) if each.name in states else {}) for each in entries]
        typer.echo(json.dumps(rows, indent=1, default=str))
        return
    now = datetime.now(UTC)
    print_table(_ENTRIES, (_entry_cells(each, states.get(each.name), now) for each in entries), wrapping=("REASON",))


@app.command()
def studies(
    context: typer.Context,
    *,
    remote: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this remote.")] = None,
    state: Annotated[str | None, typer.Option(help="found, fetching, complete, failed or dropped.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, those found last.")] = 100,
    as_json: JSONOption = False,
    config: ConfigOption = None,
) -> None:
    """List the studies that were found at remotes, with their state."""
    from pacs_server.index.remote_studies import RemoteStudyFilter, RemoteStudyState

    if state is not None and state not in set(RemoteStudyState):
        fail(f"--state: {state} is none of {', '.join(RemoteStudyState)}", 2)
    with open_archive(context, config) as archive:
        found = archive.polling.studies(RemoteStudyFilter(remote, RemoteStudyState(state) if state else None), limit)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=1, default=str))
        return
    now = datetime.now(UTC)
    print_table(_STUDIES, (_study_cells(each, now) for each in found), wrapping=("REASON",))


@app.command()
def now(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of a polling entry.")],
    config: ConfigOption = None,
) -> None:
    """Let the running server search a remote now."""
    with open_archive(context, config) as archive:
        entry = next((each for each in archive.config().polling if each.name == name), None)
        if entry is None:
            fail(f"there is no {name} in polling", 2)
        if not archive.polling.ask_now(entry.remote, entry.name):
            fail(f"{name} has no task yet: the server makes it within seconds of its start, or of a reload", 1)
    echo(f"{name} will be asked as soon as the server looks, within ten seconds")


def _entry_cells(entry: "PollingConfig", state: "PollingState | None", now: datetime) -> tuple[str, ...]:
    if state is None:
        return (entry.name, entry.remote, age(entry.every), "never", "never", "-", "-", "-", "-")
    return (
        *(entry.name, entry.remote, age(entry.every), _ago(state.asked_at, now), _ago(state.answered_at, now)),
        *(str(state.matches), str(state.found), str(state.failures), state.last_error or "-"),
    )


def _study_cells(found: "RemoteStudy", now: datetime) -> tuple[str, ...]:
    there = "-" if found.remote_instances is None else str(found.remote_instances)
    return (
        *(found.study_instance_uid, found.remote, found.state, found.priority, found.patient_id or "-"),
        *(found.study_date or "-", found.modalities.replace("\\", ",") or "-", there),
        *(age((now - found.found_at).total_seconds()), str(found.task_id or "-"), found.last_error or "-"),
    )


def _ago(moment: datetime | None, now: datetime) -> str:
    return "never" if moment is None else f"{age((now - moment).total_seconds())} ago"
