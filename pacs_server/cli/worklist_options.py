"""The options of `pacs-server worklist add|update`: one for each attribute of a worklist item."""

import inspect
from collections.abc import Callable, Mapping
from datetime import date as Date
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from pacs_server.cli.options import fail

if TYPE_CHECKING:
    from pacs_server.dicom.json_model import DataSet


class Attribute(NamedTuple):
    """An attribute of a worklist item that an option gives."""

    keyword: str
    help: str


IDENTIFIERS: Final = {
    "accession": Attribute("AccessionNumber", "Accession number."),
    "procedure_id": Attribute("RequestedProcedureID", "Requested procedure id; generated if not given."),
    "step_id": Attribute("ScheduledProcedureStepID", "Scheduled procedure step id; generated if not given."),
}
FIELDS: Final = {
    "patient_name": Attribute("PatientName", "As Family^Given."),
    "patient_id": Attribute("PatientID", "Patient id."),
    "issuer": Attribute("IssuerOfPatientID", "Issuer of the patient id."),
    "birth_date": Attribute("PatientBirthDate", "As 1970-01-31 or 31.01.1970."),
    "sex": Attribute("PatientSex", "M, F or O."),
    "referring": Attribute("ReferringPhysicianName", "Referring physician, as Family^Given."),
    "study_uid": Attribute("StudyInstanceUID", "Study Instance UID; generated if not given."),
    "procedure": Attribute(
        "RequestedProcedureDescription", "Description of the requested procedure; the default is --description."
    ),
    "procedure_code": Attribute("RequestedProcedureCodeSequence", "Code of the procedure, as value^scheme^meaning."),
    "priority": Attribute("RequestedProcedurePriority", "STAT, HIGH, ROUTINE, MEDIUM or LOW."),
    "description": Attribute("ScheduledProcedureStepDescription", "Description of the step."),
    "protocol_code": Attribute("ScheduledProtocolCodeSequence", "Code of the protocol, as value^scheme^meaning."),
    "modality": Attribute("Modality", "Such as CT or MR."),
    "station": Attribute("ScheduledStationAETitle", "AE title of the modality."),
    "date": Attribute(
        "ScheduledProcedureStepStartDate", "Start date, such as 2026-01-31, 31.01.2026, today or tomorrow."
    ),
    "time": Attribute("ScheduledProcedureStepStartTime", "Start time, such as 9:30."),
    "physician": Attribute("ScheduledPerformingPhysicianName", "The performing physician, as Family^Given."),
    "location": Attribute("ScheduledProcedureStepLocation", "The room or place."),
}

Attributes = Mapping[str, Attribute]


def with_options(attributes: Attributes) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command one option for each attribute, in place of its `**fields`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, typer.Option(_option(name), metavar="TEXT", help=attribute.help)],
            )
            for name, attribute in attributes.items()
        ]
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        command.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
        command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return command

    return decorate


def overlaid(order: "DataSet", fields: Mapping[str, str | None]) -> "DataSet":
    """The order, changed by the options that were given; an empty text removes the attribute.

    Ends the process if an attribute cannot have the value that was given for it.
    """
    from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE
    from pacs_server.intake.worklist_fields import expected, set_field

    (before,) = order[SCHEDULED_PROCEDURE_STEP_SEQUENCE]["Value"]
    whole, step = dict(order), dict(before)
    whole[SCHEDULED_PROCEDURE_STEP_SEQUENCE] = {"vr": "SQ", "Value": [step]}
    for name, text in fields.items():
        if text is None:
            continue
        keyword = (IDENTIFIERS | FIELDS)[name].keyword
        try:
            set_field(whole, step, keyword, text, today=Date.today())
        except ValueError:
            words = ", or today, yesterday, tomorrow" if keyword.endswith("Date") else ""
            fail(f"{_option(name)}: {keyword} has to be {expected(keyword)}{words}", 2)
    return whole


def named_by_option(problem: str) -> str:
    """The sentence `problem`, which begins with an attribute, preceded by the option that gives this attribute."""
    keyword = problem.split(" ", 1)[0]
    for name, attribute in (IDENTIFIERS | FIELDS).items():
        if attribute.keyword == keyword:
            return f"{_option(name)}: {problem}"
    return problem


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
