"""The commands that say what is stored: `pacs-server find` and `show`. A query is recorded in the audit trail."""

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from pacs_server.cli.options import ConfigOption, day_option, echo, fail, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.dicom.caller import Caller
    from pacs_server.dicom.identifier import RetrieveKeys

app = typer.Typer(rich_markup_mode=None)

Texts = Mapping[str, str]
What = Literal["studies", "series", "instances"]

_LEVELS: Final = {"studies": "STUDY", "series": "SERIES", "instances": "IMAGE"}
# The columns of the tables, by keyword.
_TITLES: Final = {
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
_MORE: Final = {
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
_OF_THE_STUDY: Final = ("PatientID", "StudyDate", "StudyInstanceUID")
_WRAPPING: Final = ("PATIENT NAME", "DESCRIPTION")
_STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
# So many matches are read before the audit trail is told how many there are.
_BATCH: Final = 1000

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="Its Study Instance UID, or its accession number if no other has that.")
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON, with DICOM's keywords as names.")]


@app.command()
def find(  # noqa: PLR0913
    context: typer.Context,
    what: Annotated[What, typer.Argument(metavar="WHAT", help="studies, series or instances.")],
    *,
    patient_id: Annotated[str | None, typer.Option(metavar="ID", help="Patient ID; * and ? stand for others.")] = None,
    patient_name: Annotated[str | None, typer.Option(metavar="NAME", help="As 'doe^*', in any case.")] = None,
    date: Annotated[str | None, typer.Option(metavar="DATE", help="Study date, as 2026-01-31 or today.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="DATE", help="The first study date.")] = None,
    to: Annotated[str | None, typer.Option(metavar="DATE", help="The last study date.")] = None,
    modality: Annotated[str | None, typer.Option(help="As CT; for studies, one of theirs.")] = None,
    accession: Annotated[str | None, typer.Option(metavar="NUMBER", help="Accession number.")] = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the study, or of the series; as '*chest*'.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Series Instance UID.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many at most.")] = None,
    as_json: JSONOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with DICOM's keywords as header.")] = False,
    config: ConfigOption = None,
) -> None:
    """List the studies, series or instances that are stored and match, in the order in which they came."""
    if as_json and as_csv:
        fail("--json and --csv are two formats", 2)
    if what == "studies" and series is not None:
        fail("--series: narrows series and instances only", 2)
    of_study = what == "studies"
    keys = {
        "PatientID": patient_id,
        "PatientName": patient_name,
        "StudyDate": _dates(date, from_, to),
        "ModalitiesInStudy" if of_study else "Modality": modality,
        "AccessionNumber": accession,
        "StudyDescription" if of_study else "SeriesDescription": description,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
    }
    titles = _TITLES[what]
    keywords = (*titles, *(_MORE[what] if as_json or as_csv else ()))
    given = {key: text for key, text in keys.items() if text}
    with open_archive(context, config) as archive, closing(matches(archive, what, given, keywords, limit)) as rows:
        if as_json:
            _print_json(rows)
        elif as_csv:
            _print_csv(keywords, rows)
        else:
            cells = ([row[keyword].replace("\\", ", ") for keyword in titles] for row in rows)
            print_table(tuple(titles.values()), cells, wrapping=_WRAPPING)


@app.command()
def show(
    context: typer.Context, study: StudyArgument, *, as_json: JSONOption = False, config: ConfigOption = None
) -> None:
    """Show a study: whose it is, its series with the number of their instances, and its size."""
    with open_archive(context, config) as archive:
        found = studies_named(archive, study)
        uid = found[0]["StudyInstanceUID"]
        series = list(matches(archive, "series", {"StudyInstanceUID": uid}, (*_TITLES["series"], *_MORE["series"])))
        size = sum(instance.size for instance in archive.retrieve.select(whole_study(uid)))
    if as_json:
        studies = [_values(each) for each in found]
        shown = {"studies": studies, "series": [_values(each) for each in series], "bytes": size}
        typer.echo(json.dumps(shown, ensure_ascii=False, indent=1))
        return
    for each in found:
        for line in _described(each):
            echo(line)
    instances = sum(int(each["NumberOfSeriesRelatedInstances"]) for each in series)
    sizes = (counted(len(series), "series", "series"), counted(instances, "instance"), f"{size} bytes")
    typer.echo(f"size: {', '.join(sizes)}\n")
    titles = {key: title for key, title in _TITLES["series"].items() if key not in _OF_THE_STUDY}
    print_table(tuple(titles.values()), ([each[key] for key in titles] for each in series), wrapping=_WRAPPING)


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


def studies_named(archive: "OpenArchive", text: str) -> list[Texts]:
    """The study that `text` names, once for each patient that it is known with; ends the process if there is none."""
    from pacs_server.dicom.uids import is_uid
    from pacs_server.kit.logs import escaped

    keywords = (*_TITLES["studies"], *_MORE["studies"])
    found: list[Texts] = []
    if is_uid(text):
        found = list(matches(archive, "studies", {"StudyInstanceUID": text}, keywords))
    if not found and text and not set(text) & set("*?\\"):
        found = list(matches(archive, "studies", {"AccessionNumber": text}, keywords))
    if not found:
        fail(
            f"there is no study of the UID or accession number {escaped(text)}; `pacs-server find studies` lists all", 1
        )
    uids = {each["StudyInstanceUID"] for each in found}
    if len(uids) > 1:
        fail(
            f"there are {len(uids)} studies of that accession number, name one by its UID: {', '.join(sorted(uids))}", 1
        )
    return found


def whole_study(uid: str) -> "RetrieveKeys":
    """The keys that retrieve all of a study."""
    from pacs_server.dicom.identifier import RetrieveKeys
    from pacs_server.dicom.levels import Level

    return RetrieveKeys(Level.STUDY, study_instance_uids=(uid,))


def _dates(day: str | None, first: str | None, last: str | None) -> str | None:
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


def _values(row: Texts) -> dict[str, Any]:
    """A match as JSON: counts as numbers, attributes that may have several values as arrays."""
    return {keyword: _value(keyword, text) for keyword, text in row.items()}


def _value(keyword: str, text: str) -> Any:
    from pacs_server.dicom.attributes import BY_KEYWORD

    attribute = BY_KEYWORD[keyword]
    if attribute.multiple:
        return text.split("\\") if text else []
    return int(text) if text and attribute.computed and attribute.vr == "IS" else text


def _print_json(rows: Iterable[Texts]) -> None:
    """Print an array, row by row, since there may be more rows than fit into memory."""
    between = "[\n "
    for row in rows:
        # JSON leaves some characters as they are that steer a terminal.
        text = json.dumps(_values(row), ensure_ascii=False).translate(_CONTROLS)
        typer.echo(between + text, nl=False)
        between = ",\n "
    typer.echo("[]" if between.startswith("[") else "\n]")


def _print_csv(keywords: Iterable[str], rows: Iterable[Texts]) -> None:
    from pacs_server.kit.csv_rows import csv_row
    from pacs_server.kit.logs import escaped

    names = tuple(keywords)
    typer.echo(csv_row(names), nl=False)
    for row in rows:
        typer.echo(csv_row(escaped(row[name]) for name in names), nl=False)


def _described(study: Texts) -> Iterator[str]:
    patient = (study["PatientName"], study["PatientID"], study["PatientBirthDate"], study["PatientSex"])
    fields = {
        "study": study["StudyInstanceUID"],
        "patient": ", ".join(text for text in patient if text) or "-",
        "date": f"{study['StudyDate']} {study['StudyTime']}".strip(),
        "accession number": study["AccessionNumber"],
        "description": study["StudyDescription"],
        "modalities": study["ModalitiesInStudy"].replace("\\", ", "),
        "referring physician": study["ReferringPhysicianName"],
    }
    yield from (f"{name}: {text or '-'}" for name, text in fields.items())
