"""`pacs-server find`: list what is stored. Each query is recorded in the audit trail."""

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from pacs_server.cli.options import ConfigOption, day_option, fail, open_archive
from pacs_server.cli.tables import print_table

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.dicom.caller import Caller

app = typer.Typer(rich_markup_mode=None)

Texts = Mapping[str, str]
What = Literal["studies", "series", "instances"]

_LEVELS: Final = {"studies": "STUDY", "series": "SERIES", "instances": "IMAGE"}
# The columns of the tables, by keyword.
TITLES: Final = {
    "studies": {
        **{"PatientID": "PATIENT ID", "PatientName": "PATIENT NAME", "StudyDate": "DATE"},
        **{"ModalitiesInStudy": "MODALITIES", "AccessionNumber": "ACCESSION"},
        **{"NumberOfStudyRelatedSeries": "SERIES", "NumberOfStudyRelatedInstances": "INSTANCES"},
        **{"StudyInstanceUID": "STUDY UID", "StudyDescription": "DESCRIPTION"},
    },
    "series": {
        **{"PatientID": "PATIENT ID", "StudyDate": "DATE", "Modality": "MODALITY", "SeriesNumber": "NUMBER"},
        **{"BodyPartExamined": "BODY PART", "NumberOfSeriesRelatedInstances": "INSTANCES"},
        **{"SeriesInstanceUID": "SERIES UID", "StudyInstanceUID": "STUDY UID", "SeriesDescription": "DESCRIPTION"},
    },
    "instances": {
        **{"PatientID": "PATIENT ID", "Modality": "MODALITY", "SeriesNumber": "SERIES", "InstanceNumber": "NUMBER"},
        **{"SOPClassUID": "SOP CLASS UID", "SOPInstanceUID": "SOP INSTANCE UID"},
        **{"SeriesInstanceUID": "SERIES UID", "StudyInstanceUID": "STUDY UID"},
    },
}
# What JSON and CSV have as well.
MORE: Final = {
    "studies": (
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyTime",
        "StudyID",
        "ReferringPhysicianName",
    ),
    "series": ("PatientName", "AccessionNumber", "SeriesDate", "SeriesTime", "ProtocolName", "StationName"),
    "instances": ("PatientName", "StudyDate", "AccessionNumber", "Rows", "Columns", "NumberOfFrames"),
}
WRAPPING: Final = ("PATIENT NAME", "DESCRIPTION")
_STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
# So many matches are read before the audit trail is told how many there are.
_BATCH: Final = 1000

JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON, with DICOM's keywords as names.")]


@app.command()
def find(  # noqa: PLR0913
    context: typer.Context,
    what: Annotated[What, typer.Argument(metavar="WHAT", help="studies, series or instances.")],
    *,
    patient_id: Annotated[str | None, typer.Option(metavar="ID", help="Patient ID; * and ? are wild cards.")] = None,
    patient_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as 'doe^*'; case does not matter.")
    ] = None,
    date: Annotated[str | None, typer.Option(metavar="DATE", help="Study date, such as 2026-01-31 or today.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="DATE", help="The first study date.")] = None,
    to: Annotated[str | None, typer.Option(metavar="DATE", help="The last study date.")] = None,
    modality: Annotated[
        str | None, typer.Option(help="Such as CT. A study matches if it contains this modality.")
    ] = None,
    accession: Annotated[str | None, typer.Option(metavar="NUMBER", help="Accession number.")] = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Description of the study or series, such as '*chest*'.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Series Instance UID.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="List at most this many.")] = None,
    as_json: JSONOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with DICOM's keywords as header.")] = False,
    config: ConfigOption = None,
) -> None:
    """List the stored studies, series or instances that match, in the order of their arrival."""
    if as_json and as_csv:
        fail("--json and --csv are two formats", 2)
    if what == "studies" and series is not None:
        fail("--series: narrows series and instances only", 2)
    of_study = what == "studies"
    keys = {
        "PatientID": patient_id,
        "PatientName": patient_name,
        "StudyDate": date_range(date, from_, to),
        # Values of VR CS have no lower case (PS3.5 6.2).
        "ModalitiesInStudy" if of_study else "Modality": modality and modality.upper(),
        "AccessionNumber": accession,
        "StudyDescription" if of_study else "SeriesDescription": description,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
    }
    titles = TITLES[what]
    keywords = (*titles, *(MORE[what] if as_json or as_csv else ()))
    given = {key: text for key, text in keys.items() if text}
    with open_archive(context, config) as archive, closing(matches(archive, what, given, keywords, limit)) as rows:
        if as_json:
            _print_json(rows)
        elif as_csv:
            _print_csv(keywords, rows)
        else:
            cells = ([row[keyword].replace("\\", ", ") for keyword in titles] for row in rows)
            print_table(tuple(titles.values()), cells, wrapping=WRAPPING)


def caller() -> "Caller":
    """Who runs this command, as the services know callers."""
    from pacs_server.audit.recorder import local_user
    from pacs_server.dicom.caller import Caller, Door

    return Caller(Door.COMMAND, "", user=local_user().user_id)


def matches(
    archive: "OpenArchive", what: What, keys: Texts, keywords: Iterable[str], limit: int | None = None
) -> Generator[Texts, None, None]:
    """The first `limit` matches of `keys`, or all, each as the texts of `keywords`; recorded in the audit trail."""
    from pydicom.datadict import keyword_for_tag

    from pacs_server.audit.auditor import Auditor
    from pacs_server.dicom.levels import Level
    from pacs_server.dicom.text_query import query_of

    with Auditor(archive.audit).query(caller(), _STUDY_ROOT_FIND) as record:
        query = query_of(Level[_LEVELS[what]], keys, keywords)
        record.keys(query.texts)
        found = archive.queries.find(query)
        names = [keyword_for_tag(column.tag) for column in found.columns]
        count = 0
        with closing(found.rows):
            rows = islice(found.rows, limit)
            while batch := list(islice(rows, _BATCH)):
                count += len(batch)
                record.matched(count, complete=len(batch) < _BATCH)
                yield from (dict(zip(names, row, strict=True)) for row in batch)
        record.matched(count, complete=True)


def date_range(day: str | None, first: str | None, last: str | None) -> str | None:
    """The matching key for a study date: one day, or a range that may be open at one end (PS3.4 C.2.2.2.5)."""
    if day is not None:
        if first is not None or last is not None:
            fail("--date is one day; a range has --from and --to", 2)
        return day_option("--date", day)
    if first is None and last is None:
        return None
    begin, end = (
        day_option(option, text) if text is not None else "" for option, text in (("--from", first), ("--to", last))
    )
    if begin and end and end < begin:
        fail("--to: is before --from", 2)
    return f"{begin}-{end}"


def values(row: Texts) -> dict[str, Any]:
    """A match as JSON: counts as numbers, attributes that may have several values as arrays."""
    from pacs_server.dicom.text_query import plain_value

    return {keyword: plain_value(keyword, text) for keyword, text in row.items()}


def json_text(document: object, indent: int | None = None) -> str:
    """A document as JSON, with the characters escaped that steer a terminal and that JSON leaves as they are."""
    return json.dumps(document, ensure_ascii=False, indent=indent).translate(_CONTROLS)


def _print_json(rows: Iterable[Texts]) -> None:
    """Print an array, row by row, since there may be more rows than fit into memory."""
    between = "[\n "
    for row in rows:
        typer.echo(between + json_text(values(row)), nl=False)
        between = ",\n "
    typer.echo("[]" if between.startswith("[") else "\n]")


def _print_csv(keywords: Iterable[str], rows: Iterable[Texts]) -> None:
    from pacs_server.kit.csv_rows import csv_row
    from pacs_server.kit.logs import escaped

    names = tuple(keywords)
    typer.echo(csv_row(names), nl=False)
    for row in rows:
        typer.echo(csv_row(escaped(row[name]) for name in names), nl=False)
