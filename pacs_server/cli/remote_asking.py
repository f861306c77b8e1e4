"""`pacs-server remote list|echo|find|worklist|fetch`: ask other systems, and have them send studies here."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from pacs_server.cli.find import TITLES, WRAPPING, caller, date_range, json_text
from pacs_server.cli.options import (
    ConfigOption,
    day_option,
    echo,
    fail,
    load_config,
    open_archive,
    require_archive,
    shown,
)
from pacs_server.cli.remote_control import app
from pacs_server.cli.remote_sending import NameArgument
from pacs_server.cli.tables import print_table
from pacs_server.cli.waiting import Far, Waiting
from pacs_server.errors import PacsError
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.config.model import Config
    from pacs_server.config.sections.remote_aes import RemoteAEConfig
    from pacs_server.dicom.implementations import Implementation
    from pacs_server.dicom.json_model import DataSet
    from pacs_server.index.task_values import Task
    from pacs_server.outbox.comparison import Compared
    from pacs_server.scu.echo import Echo
    from pacs_server.scu.queries import RemoteQueries
    from pacs_server.services.retrieve import RetrieveService

# The group of commands that `remote_sending` begins.
__all__ = ["app"]

LevelName = Literal["patient", "study", "series", "image"]

_COLUMNS: Final = ("NAME", "KIND", "AE TITLE", "ADDRESS", "TLS", "AT ONCE", "WINDOWS", "BACKUPS", "VENDOR", "SOFTWARE")
_TITLES: Final[Mapping[str, Mapping[str, str]]] = {
    "patient": {
        **{"PatientID": "PATIENT ID", "PatientName": "PATIENT NAME"},
        **{"PatientBirthDate": "BIRTH DATE", "PatientSex": "SEX"},
    },
    "study": TITLES["studies"],
    "series": {key: title for key, title in TITLES["series"].items() if key not in ("PatientID", "StudyDate")},
    "image": {key: title for key, title in TITLES["instances"].items() if key not in ("PatientID", "Modality")},
}
_STEP: Final = "ScheduledProcedureStepSequence"
_WORKLIST_TITLES: Final = {
    **{f"{_STEP}.ScheduledProcedureStepStartDate": "DATE", f"{_STEP}.ScheduledProcedureStepStartTime": "TIME"},
    **{f"{_STEP}.Modality": "MODALITY", f"{_STEP}.ScheduledStationAETitle": "STATION"},
    **{"AccessionNumber": "ACCESSION", "PatientID": "PATIENT ID", "PatientName": "PATIENT NAME"},
    "RequestedProcedureDescription": "DESCRIPTION",
}

JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON, with DICOM's keywords as names.")]
KeyOption = Annotated[
    list[str] | None,
    typer.Option("-k", "--key", metavar="KEYWORD[=VALUE]", help="Another key, or attribute to show; repeatable."),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="List at most this many.")]


@app.command("list")
def list_(context: typer.Context, as_json: JSONOption = False, config: ConfigOption = None) -> None:
    """List the remotes in remote_aes, with the software that each reported at the last connection."""
    settings = load_config(context, config)
    remotes, said = settings.remote_aes, _implementations(settings)
    if as_json:
        typer.echo(json.dumps([_as_json(each, said[each.name]) for each in remotes], indent=1))
        return
    rows = (
        (
            *(each.name, each.kind, each.ae_title, each.url or f"{each.host}:{each.port}"),
            *("yes" if each.uses_tls else "no", str(each.max_associations)),
            *(shown(each.windows or ("always",)), ", ".join(each.backups)),
            *(said[each.name].vendor(each.vendor), str(said[each.name])),
        )
        for each in remotes
    )
    print_table(_COLUMNS, rows)


def _as_json(remote: "RemoteAEConfig", implementation: "Implementation") -> dict[str, Any]:
    return remote.model_dump(mode="json", exclude={"auth"}) | {
        "vendor": implementation.vendor(remote.vendor),
        "implementation_class_uid": implementation.class_uid,
        "implementation_version_name": implementation.version_name,
    }


def _implementations(settings: "Config") -> Mapping[str, "Implementation"]:
    """What remotes said of their software, by name; nothing if the archive is not there or cannot be read."""
    from pacs_server.app import assembly
    from pacs_server.app.existence import is_archive_there
    from pacs_server.dicom.implementations import Implementation

    said: dict[str, Implementation] = defaultdict(Implementation)
    with suppress(PacsError):
        if is_archive_there(settings):
            with assembly.open_archive(settings) as archive:
                said |= {name: state.implementation for name, state in archive.breakers.states().items()}
    return said


@app.command("echo")
def echo_(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names of remotes.")] = None,
    *,
    everybody: Annotated[bool, typer.Option("--all", help="All remotes.")] = False,
    config: ConfigOption = None,
) -> None:
    """Check that remotes answer: by C-ECHO, or a DICOMweb remote by a search. Exit code 1 if one does not."""
    from pacs_server.app.remotes import asking

    settings = load_config(context, config)
    wanted = [each.name for each in settings.remote_aes] if everybody else list(names or ())
    if not wanted:
        fail("name a remote, or give --all", 2)
    failed = False
    with asking(settings) as remotes:
        for name in wanted:
            try:
                answer = remotes.echo(_known(settings, name))
            except PacsError as error:
                failed = True
                echo(f"{name}: {_without_name(str(error), name)}")
            else:
                echo(f"{name}: is there, answered in {1000 * answer.round_trip:.0f} ms{_software(answer)}")
    raise typer.Exit(1 if failed else 0)


def _software(answer: "Echo") -> str:
    said = answer.implementation
    told = ", ".join(each for each in (said.vendor(), said.version_name, said.class_uid) if each)
    return f"; {told}" if told else ""


@app.command()
def find(  # noqa: PLR0913 - an option each
    context: typer.Context,
    name: NameArgument,
    *,
    level: Annotated[LevelName, typer.Option(help="patient, study, series or image.")] = "study",
    patient_id: Annotated[str | None, typer.Option(metavar="ID", help="Patient ID; * and ? are wild cards.")] = None,
    patient_name: Annotated[str | None, typer.Option(metavar="NAME", help="Such as 'Doe^*'.")] = None,
    date: Annotated[str | None, typer.Option(metavar="DATE", help="Study date, such as 2026-01-31 or today.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="DATE", help="The first study date.")] = None,
    to: Annotated[str | None, typer.Option(metavar="DATE", help="The last study date.")] = None,
    modality: Annotated[
        str | None, typer.Option(help="Such as CT. A study matches if it contains this modality.")
    ] = None,
    accession: Annotated[str | None, typer.Option(metavar="NUMBER", help="Accession number.")] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="Description of the study or series.")] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Series Instance UID.")] = None,
    key: KeyOption = None,
    relational: Annotated[
        bool, typer.Option("--relational", help="Series and images without the UIDs of higher levels.")
    ] = False,
    combined: Annotated[bool, typer.Option("--combined", help="Match date and time as one range.")] = False,
    fuzzy: Annotated[bool, typer.Option("--fuzzy", help="Names that are similar, as the remote sees it.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Show how many instances of each study are here.")] = False,
    limit: LimitOption = None,
    as_json: JSONOption = False,
    config: ConfigOption = None,
) -> None:
    """Search a remote. The remote decides which keys it matches, and how.

    --relational, --combined and --fuzzy need extended negotiation; it is an error if the remote does not agree.
    --compare also asks the remote for the instances of each study that it finds.
    """
    from pacs_server.dicom.levels import Level
    from pacs_server.outbox.comparison import RETURNED
    from pacs_server.scu.search import Search

    if compare and level != "study":
        fail("--compare is for studies", 2)
    of_study = level in ("patient", "study")
    given = {
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
    more = _keys(key or ())
    titles = {**_TITLES[level], **{each: each for each in more if each not in _TITLES[level]}}
    keys = {k: text for k, text in given.items() if text} | more
    returns = tuple(dict.fromkeys((*titles, *(RETURNED if compare else ()))))
    search = Search(Level[level.upper()], keys, returns, fuzzy, relational, combined)
    settings = load_config(context, config)
    if compare:
        require_archive(settings)
    with _queries(settings, name) as queries:
        found = queries.find(caller(), name, search, limit)
        if not compare:
            _print(found, titles, as_json=as_json)
            return
        matches = list(found)
        with open_archive(context, config) as archive:
            here = [_here(queries, archive.retrieve, name, match) for match in matches]
    _print(iter(matches), titles, as_json=as_json, here=here)


@app.command()
def worklist(  # noqa: PLR0913 - an option each
    context: typer.Context,
    name: NameArgument,
    *,
    date: Annotated[str | None, typer.Option(metavar="DATE", help="The start date of the step, or today.")] = None,
    modality: Annotated[str | None, typer.Option(help="Such as CT.")] = None,
    station: Annotated[str | None, typer.Option(metavar="AE", help="The AE title of the station.")] = None,
    accession: Annotated[str | None, typer.Option(metavar="NUMBER", help="Accession number.")] = None,
    patient_id: Annotated[str | None, typer.Option(metavar="ID", help="Patient ID.")] = None,
    key: KeyOption = None,
    limit: LimitOption = None,
    as_json: JSONOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask a remote for its modality worklist."""
    given = {
        f"{_STEP}.ScheduledProcedureStepStartDate": date and day_option("--date", date),
        f"{_STEP}.Modality": modality and modality.upper(),
        f"{_STEP}.ScheduledStationAETitle": station,
        "AccessionNumber": accession,
        "PatientID": patient_id,
    }
    more = _keys(key or ())
    titles = {**_WORKLIST_TITLES, **{each: each for each in more if each not in _WORKLIST_TITLES}}
    keys = {k: text for k, text in given.items() if text} | more
    with _queries(load_config(context, config), name) as queries:
        _print(queries.worklist(caller(), name, keys, limit), titles, as_json=as_json)


@app.command()
def fetch(
    context: typer.Context,
    name: NameArgument,
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Study Instance UIDs or accession numbers.")],
    *,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Only this series of the study.")] = None,
    instance: Annotated[str | None, typer.Option(metavar="UID", help="Only this instance of the series.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are here or an attempt has failed.")] = False,
    config: ConfigOption = None,
) -> None:
    """Fetch studies from a remote, without what is here already. The running server does the work."""
    from pacs_server.services.fetching import Fetching

    if (series or instance) and len(studies) > 1:
        fail("--series and --instance are about one study", 2)
    settings = load_config(context, config)
    require_archive(settings)
    with _queries(settings, name) as queries:
        uids = [_study_uid(queries, name, study) for study in studies]
    with open_archive(context, config) as archive:
        who = caller().user or ""
        numbers = [archive.fetching.fetch(name, Fetching(uid, series or "", instance or ""), who) for uid in uids]
        for number, uid in zip(numbers, uids, strict=True):
            echo(f"task {number}: study {uid} from {name}")
        ended = _ended(archive, name, numbers) if wait else []
    for task in ended:
        if task.state == "done":
            here = task.progress.get("here")
            what = "all instances are" if here is None else counted(here, "instance") + (" is" if here == 1 else " are")
            echo(f"task {task.id}: {what} here")
        else:
            echo(f"pacs-server: task {task.id} is {task.state}: {task.last_error}", err=True)
    raise typer.Exit(1 if any(task.state != "done" for task in ended) else 0)


# ---------------------------------------------------------------- what they share


@contextmanager
def _queries(settings: "Config", name: str) -> "Iterator[RemoteQueries]":
    from pacs_server.app.remotes import asking
    from pacs_server.audit.events import NoAudit
    from pacs_server.audit.outgoing import OutgoingAuditor
    from pacs_server.audit.recorder import Recorder
    from pacs_server.audit.trail import open_trail
    from pacs_server.scu.queries import RemoteQueries

    _known(settings, name)
    with asking(settings) as remotes:
        if not settings.audit.enabled:
            yield RemoteQueries(remotes, OutgoingAuditor(Recorder(NoAudit(), lambda: settings.server.ae_title)))
            return
        with open_trail(settings.audit) as trail:
            yield RemoteQueries(remotes, OutgoingAuditor(Recorder(trail, lambda: settings.server.ae_title)))


def _known(settings: "Config", name: str) -> str:
    if settings.remote(name) is None:
        names = ", ".join(each.name for each in settings.remote_aes) or "none"
        fail(f"there is no remote {name}; remote_aes has {names}", 1)
    return name


def _without_name(text: str, name: str) -> str:
    return text.removeprefix(f"{name}: ")


def _keys(texts: Sequence[str]) -> dict[str, str]:
    keys = {}
    for text in texts:
        keyword, _, value = text.partition("=")
        keys[keyword.strip()] = value
    return keys


def _here(queries: "RemoteQueries", retrieve: "RetrieveService", name: str, match: "DataSet") -> "Compared":
    from pacs_server.outbox.comparison import compare

    return compare(queries, retrieve, caller(), name, match)


def _print(
    matches: "Iterator[DataSet]",
    titles: Mapping[str, str],
    *,
    as_json: bool,
    here: "Sequence[Compared] | None" = None,
) -> None:
    """The matches; `here` tells of each how much of it is here."""
    from pacs_server.scu.request import value_at

    if as_json:
        found = [_plain(match) for match in matches]
        for each, compared in zip(found, here or (), strict=False):
            each |= {"here": compared.here, "there": compared.there}
        typer.echo(json_text(found, indent=1))
        return
    rows = ([value_at(match, path).replace("\\", ", ") for path in titles] for match in matches)
    if here is None:
        print_table(tuple(titles.values()), rows, wrapping=WRAPPING)
        return
    said = (f"{each.here} of {'?' if each.there is None else each.there}" for each in here)
    both = ([*row, text] for row, text in zip(rows, said, strict=True))
    print_table((*titles.values(), "HERE"), both, wrapping=WRAPPING)


def _plain(match: "DataSet") -> dict[str, Any]:
    """A match with keywords for tags and plain values."""
    from pydicom.datadict import keyword_for_tag

    from pacs_server.dicom.json_model import text_of

    found: dict[str, Any] = {}
    for tag, element in match.items():
        name = keyword_for_tag(int(tag, 16)) or tag
        if element["vr"] == "SQ":
            found[name] = [_plain(item) for item in element.get("Value", ())]
        else:
            values = text_of(match, tag).split("\\")
            found[name] = values if len(values) > 1 else values[0]
    return found


def _study_uid(queries: "RemoteQueries", name: str, study: str) -> str:
    from pacs_server.dicom.json_model import text_of
    from pacs_server.dicom.levels import Level
    from pacs_server.dicom.uids import is_uid
    from pacs_server.scu.search import Search

    if is_uid(study):
        return study
    search = Search(Level.STUDY, {"AccessionNumber": study}, ("StudyInstanceUID",))
    uids = sorted({text_of(match, "0020000D") for match in queries.find(caller(), name, search, 10)} - {""})
    if len(uids) != 1:
        found = f"{len(uids)} studies" if uids else "no study"
        fail(f"{name} has {found} of the accession number {study}" + (": " + ", ".join(uids) if uids else ""), 1)
    return uids[0]


def _ended(archive: "OpenArchive", name: str, numbers: Sequence[int]) -> "list[Task]":
    """The tasks when each is over, or has failed once more."""
    before = {each: task.attempts for each in numbers if (task := archive.tasks.find(each)) is not None}
    waiting = Waiting(archive, name, _fetched, "here", lambda task: task.attempts > before[task.id])
    return waiting.until_over(numbers)


def _fetched(tasks: "Sequence[Task]") -> Far:
    """How many of the instances are here that the remote has, as far as it was asked."""
    known = [task.progress for task in tasks if "expected" in task.progress]
    total = sum(each["expected"] for each in known) if known else None
    return Far(sum(each["here"] for each in known), total)
