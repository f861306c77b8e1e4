"""`pacs-server show`: what is in a study; and how commands take the name of one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pacs_server.cli.find import MORE, TITLES, WRAPPING, JSONOption, Texts, json_text, matches, values
from pacs_server.cli.options import ConfigOption, echo, fail, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.dicom.identifier import RetrieveKeys
    from pacs_server.index.marks import StudyMarks

app = typer.Typer(rich_markup_mode=None)

_OF_THE_STUDY: Final = ("PatientID", "StudyDate", "StudyInstanceUID")

StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Its Study Instance UID, or its accession number if no other study has it."),
]


@app.command()
def show(
    context: typer.Context, study: StudyArgument, *, as_json: JSONOption = False, config: ConfigOption = None
) -> None:
    """Show a study: its patient, its series with the number of their instances, and its size."""
    from pacs_server.index.marks import StudyMarks

    with open_archive(context, config) as archive:
        found = studies_named(archive, study)
        uid = found[0]["StudyInstanceUID"]
        series = list(matches(archive, "series", {"StudyInstanceUID": uid}, (*TITLES["series"], *MORE["series"])))
        size = sum(instance.size for instance in archive.retrieve.select(whole_study(uid)))
        marks = archive.marks.of([uid])[uid]
    if as_json:
        studies = [values(each) for each in found]
        said = {"labels": list(marks.labels), "assigned_to": marks.assigned_to, "reading": marks.reading}
        shown = {"studies": studies, "series": [values(each) for each in series], "bytes": size, **said}
        typer.echo(json_text(shown, indent=1))
        return
    for each in found:
        for line in _described(each):
            echo(line)
    instances = sum(int(each["NumberOfSeriesRelatedInstances"]) for each in series)
    sizes = (counted(len(series), "series", "series"), counted(instances, "instance"), counted(size, "byte"))
    typer.echo(f"size: {', '.join(sizes)}")
    if marks != StudyMarks():
        for line in marked(marks):
            echo(line)
    typer.echo("")
    titles = {key: title for key, title in TITLES["series"].items() if key not in _OF_THE_STUDY}
    print_table(tuple(titles.values()), ([each[key] for key in titles] for each in series), wrapping=WRAPPING)


def studies_named(archive: "OpenArchive", text: str) -> list[Texts]:
    """The study that `text` names, once for each patient that it is known with; ends the process if there is none."""
    from pacs_server.dicom.uids import is_uid
    from pacs_server.kit.logs import escaped

    keywords = (*TITLES["studies"], *MORE["studies"])
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


def marked(marks: "StudyMarks") -> list[str]:
    """What is said of a study, a line for each."""
    by = f" (set by {marks.by})" if marks.by else ""
    return [
        f"labels: {', '.join(marks.labels) or 'none'}",
        f"assigned to: {marks.assigned_to or 'nobody'}",
        f"reading: {marks.reading}{by}",
    ]
