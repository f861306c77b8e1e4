"""The commands of the audit trail, `pacs-server audit verify|search|export`. Reading the trail is recorded in it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from pacs_server.cli.options import ConfigOption, fail, load_config, source
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.audit.record import Record
    from pacs_server.audit.search import Criteria
    from pacs_server.audit.trail import AuditTrail
    from pacs_server.config.sections.audit import AuditConfig

app = typer.Typer(help="The audit trail: who did what to which patient's data.", rich_markup_mode=None)

_COLUMNS = ("TIME", "EVENT", "OUTCOME", "WHO", "ABOUT", "QUERY", "DETAIL")
_WRAPPING = ("WHO", "ABOUT", "QUERY", "DETAIL")

FromOption = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day, in UTC.")]
ToOption = Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day, in UTC.")]


@app.command()
def verify(context: typer.Context, config: ConfigOption = None) -> None:
    """Check that no record was changed, removed or added. Names the first wrong record."""
    from pacs_server.audit.verify import InvalidTrail
    from pacs_server.audit.verify import verify as verify_trail

    settings = _settings(context, config)
    try:
        found = verify_trail(settings)
    except InvalidTrail as broken:
        fail(f"the audit trail is broken: {broken}", 1)
    typer.echo(
        f"ok: {counted(found.records, 'record')} in {counted(found.files, 'file')}, the first is record {found.first}"
    )
    typer.echo(f"the last is record {found.last.sequence}, MAC {found.last.mac}")


@app.command()
def search(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    patient: Annotated[str | None, typer.Option(metavar="ID", help="The patient's ID.")] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="A Study Instance UID.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="A user name or an AE title.")] = None,
    from_: FromOption = None,
    to: ToOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole records, one JSON object on each line.")] = False,
) -> None:
    """Print who used a patient's or a study's data, or what a user did, the oldest first."""
    from pacs_server.audit import search as searching
    from pacs_server.audit.export import as_json as json_line
    from pacs_server.kit.logs import escaped

    if patient is None and study is None and user is None:
        fail("say whom to search for: --patient, --study or --user", 2)
    settings = _settings(context, config)
    criteria = searching.Criteria(patient, study, user, from_ and from_.date(), to and to.date())
    with _reading(settings, f"search patient={patient} study={study} user={user}") as trail:
        records = searching.search(trail, criteria)
        first = next(records, None)
        if first is None:
            fail(escaped(f"nothing is known of {_sought(criteria)}: the audit trail has no such record"), 1)
        found = chain((first,), records)
        if not as_json:
            print_table(_COLUMNS, (_cells(record, patient, study) for record in found), wrapping=_WRAPPING)
            return
        for record in found:
            typer.echo(json_line(record))


@app.command()
def export(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    from_: FromOption = None,
    to: ToOption = None,
    format_: Annotated[Literal["json", "csv", "xml"], typer.Option("--format", help="json, csv or xml.")] = "json",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file instead of printing.")] = None,
) -> None:
    """Export the records of some days, or all: as JSON lines, CSV, or audit messages of PS3.15."""
    from pacs_server.audit.export import export as exported

    settings = _settings(context, config)
    with _reading(settings, f"export format={format_} output={output or '-'}") as trail, _destination(output) as file:
        for piece in exported(trail.records_between(from_ and from_.date(), to and to.date()), format_):
            file.write(piece)


def _settings(context: typer.Context, config: Path | None) -> "AuditConfig":
    """The settings of an audit trail that is there, because opening it would make one. Raises ConfigError.

    Ends the process with exit code 2 if it is not there.
    """
    whole = load_config(context, config, check=False)
    directory = whole.audit.directory
    if not directory.is_dir():
        fail(f"there is no audit trail in {directory} ({whole.where('audit.directory')}). {source(whole)}", 2)
    return whole.audit


def _sought(criteria: "Criteria") -> str:
    """What a search was for, in words."""
    named = {"patient": criteria.patient_id, "study": criteria.study_instance_uid, "user": criteria.user}
    what = " and ".join(f"{kind} {name}" for kind, name in named.items() if name is not None)
    days = (f"{word} {day}" for word, day in (("from", criteria.first), ("to", criteria.last)) if day is not None)
    return " ".join((what, *days))


@contextmanager
def _reading(settings: "AuditConfig", detail: str) -> Iterator["AuditTrail"]:
    """The trail to read from. Before anything is shown, the trail records that it is read (PS3.15 A.5.3.2)."""
    from pacs_server.audit.events import Action, Event, EventID
    from pacs_server.audit.recorder import local_user
    from pacs_server.audit.trail import open_trail

    with open_trail(settings) as trail:
        trail.write(Event(EventID.AUDIT_LOG_USED, Action.READ, (local_user(),), detail=detail))
        yield trail


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            yield file
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}", 1)


def _cells(record: "Record", patient: str | None, study: str | None) -> tuple[str, ...]:
    """A record as a row: time, event, outcome, participants, subjects, keys of a query, detail.

    If the search was for a patient or a study, only the subjects that it found are shown.
    """
    event = record.event
    kind = event.event_id.value[1] + (f" ({event.event_type.value[1]})" if event.event_type else "")
    who = ", ".join(
        one.user_id
        + (f" at {one.ae_title}" if one.ae_title not in ("", one.user_id) else "")
        + (f" from {one.address}" if one.address else "")
        for one in event.participants
    )
    subjects = [one for one in event.subjects if one.patient_id == patient or one.study_instance_uid == study]
    about = [f"{one.patient_id or '-'} study {one.study_instance_uid or '-'}" for one in subjects or event.subjects]
    query = [f"{key}={value}" for key, value in event.query.items()]
    time, outcome = f"{record.time:%Y-%m-%d %H:%M:%S}", event.outcome.name.lower().replace("_", " ")
    return time, kind, outcome, who, ", ".join(about), ", ".join(query), event.detail
