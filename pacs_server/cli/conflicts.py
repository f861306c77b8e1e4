"""The commands that decide to which patient a study belongs: `pacs-server conflicts|patients|merge|reassign`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pacs_server.cli.options import ConfigOption, echo, fail, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.dicom.patient_id import patient_text
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.index.patients import Person, StudyOf
    from pacs_server.services.patients import PatientService

app = typer.Typer(rich_markup_mode=None)

ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the audit trail.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_PERSON_COLUMNS = ("PATIENT", "PATIENT ID", "NAME", "BIRTH DATE", "STUDIES")
_HOW = "its key as `conflicts` prints it, its Patient ID, or ID^^^ISSUER"


@app.command()
def conflicts(context: typer.Context, *, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List patients with the same ID who cannot be one person, and studies that arrived with several patients."""
    with _identity(context, config) as identity:
        found = identity.conflicts()
    if as_json:
        patients = [[_person_values(each) for each in group] for group in found.patients]
        studies = [[_study_values(each) for each in group] for group in found.studies]
        typer.echo(json.dumps({"patients": patients, "studies": studies}, ensure_ascii=False, indent=1))
        return
    of_patients = (("patient", "", "", "", person) for people in found.patients for person in people)
    of_studies = (
        ("study", study.study_instance_uid, study.reference, str(study.instances), study.person)
        for group in found.studies
        for study in group
    )
    print_table(
        ("CONFLICT", "STUDY UID", "STUDY", "INSTANCES", *_PERSON_COLUMNS),
        ((*cells, *_person_cells(person)) for *cells, person in (*of_patients, *of_studies)),
    )
    if not found.patients and not found.studies:
        typer.echo("no conflicts", err=True)


@app.command()
def patients(
    context: typer.Context,
    patient: Annotated[str | None, typer.Argument(metavar="[ID]", help="Patient ID, or ID^^^ISSUER.")] = None,
    *,
    study: Annotated[
        str | None, typer.Option(metavar="UID", help="The present and former patients of a study.")
    ] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """List the patients of an ID or of a study, with their keys. @m... are patients whose studies were moved away."""
    if (patient is None) == (study is None):
        fail("say either an ID or --study UID", 2)
    with _identity(context, config) as identity:
        found = identity.people(patient) if patient is not None else identity.people_of(study or "")
    if as_json:
        typer.echo(json.dumps([_person_values(each) for each in found], ensure_ascii=False, indent=1))
        return
    print_table(
        (*_PERSON_COLUMNS, "STATUS"),
        ((*_person_cells(person), "moved away" if person.merged else "") for person in found),
    )


@app.command()
def merge(
    context: typer.Context,
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help=f"The patient to remove: {_HOW}.")],
    *,
    into: Annotated[str, typer.Option(metavar="PATIENT", help="The patient who gets the studies, in the same form.")],
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Move all present and future studies of a patient to another patient. Files stay as they were sent."""
    with _identity(context, config) as identity:
        source, target = identity.person(patient), identity.person(into)
        moved = identity.merge(source, target, reason, dry_run=dry_run)
    for study in moved:
        echo(f"study {study.study_instance_uid}: {counted(study.instances, 'instance')}")
    verb = "would merge" if dry_run else "merged"
    echo(f"{verb} {_person_line(source)} into {_person_line(target)}")


@app.command()
def reassign(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Its UID, or the key that `conflicts` prints.")],
    *,
    to: Annotated[str, typer.Option(metavar="PATIENT", help=f"The right patient: {_HOW}.")],
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Move a study, and what still arrives of it, to another patient. Files stay as they were sent."""
    with _identity(context, config) as identity:
        one, target = identity.study(study), identity.person(to)
        identity.reassign(one, target, reason, dry_run=dry_run)
    verb = "would reassign" if dry_run else "reassigned"
    echo(f"{verb} study {one.study_instance_uid} of {_person_line(one.person)} to {_person_line(target)}")


@contextmanager
def _identity(context: typer.Context, config: ConfigOption) -> Iterator["PatientService"]:
    with open_archive(context, config) as archive:
        archive.patients.catch_up()
        yield archive.patients


def _named(person: "Person") -> str:
    return patient_text(*person.identity.key) or "(none)"


def _person_cells(person: "Person") -> tuple[str, ...]:
    identity = person.identity
    cells = (person.reference, _named(person), identity.patient_name, identity.patient_birth_date)
    return (*cells, str(person.studies))


def _person_line(person: "Person") -> str:
    *cells, _ = _person_cells(person)
    return "  ".join((*(cell or "-" for cell in cells), counted(person.studies, "study", "studies")))


def _person_values(person: "Person") -> dict[str, Any]:
    values = asdict(person)
    return {"patient": person.reference, "moved_away": values.pop("merged"), **values.pop("attributes"), **values}


def _study_values(study: "StudyOf") -> dict[str, Any]:
    values = asdict(study)
    return {"study": study.reference, **values, "person": _person_values(study.person)}
