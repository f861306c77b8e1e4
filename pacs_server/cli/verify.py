"""`pacs-server verify`: compare the files with the index, and repair what can be repaired."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from pacs_server.cli.options import ConfigOption, bytes_per_second, echo, fail, open_archive
from pacs_server.cli.progress import progress_shown
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.app.assembly import OpenArchive
    from pacs_server.upkeep.verify import (
        Repair,
        Verification,
        VerificationProgress,
        VerificationReport,
        VerificationSources,
    )

app = typer.Typer(rich_markup_mode=None)


@app.command()
def verify(  # noqa: PLR0913
    context: typer.Context,
    *,
    config: ConfigOption = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only what arrived on this day (UTC) or later.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Only the study of this UID.")] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The maximum rate for each second, such as 50MB.")
    ] = None,
    no_digest: Annotated[bool, typer.Option("--no-digest", help="Read the headers only, not every byte.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue where the last run was interrupted.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired. Removes nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON to this file; - prints it.")
    ] = None,
) -> None:
    """Compare the stored files with the index, in both directions."""
    from pacs_server.kit.logs import escaped
    from pacs_server.upkeep.rate_limit import RateLimit
    from pacs_server.upkeep.verify import Verification

    if resume and (since is not None or study is not None or no_digest):
        fail("--resume goes on as the run began: without --since, --study and --no-digest", 2)
    limit = RateLimit(bytes_per_second(rate))
    try:
        with open_archive(context, config) as archive:
            sources = _sources(archive)
            progress = _progress(sources, since, study, digest=not no_digest, resume=resume)
            with progress_shown("instances") as show:
                run = Verification(
                    sources,
                    progress,
                    limit.spend,
                    lambda now: show(f"{now.phase}: {counted(now.files, 'file')}", now.instances, 0),
                )
                report = run.run(_repair(archive, sources) if repair else None)
            unknown = _is_unknown(sources, report)
            if not unknown or output is not None:
                _print_report(report, run, output)
            archive.faults.keep(report, run.findings())
            run.forget()
    except KeyboardInterrupt:
        fail("interrupted; verify --resume goes on from here", 130)
    if unknown:
        fail(f"nothing is known of study {escaped(progress.study or '')}: no instance in the index, and no file", 1)
    raise typer.Exit(0 if report.clean else 1)


def _sources(archive: "OpenArchive") -> "VerificationSources":
    from pacs_server.index.integrity import IntegrityIndex
    from pacs_server.index.state import StateIndex
    from pacs_server.upkeep.verify import VerificationSources

    index, state = IntegrityIndex(archive.database), StateIndex(archive.database)
    return VerificationSources(archive.files, index, state, archive.deletions.settled)


def _progress(
    sources: "VerificationSources", since: datetime | None, study: str | None, *, digest: bool, resume: bool
) -> "VerificationProgress":
    from pacs_server.upkeep.verify import VerificationProgress, begin, unfinished

    if not resume:
        day = None if since is None else since.replace(tzinfo=UTC).isoformat()
        return begin(sources.state, VerificationProgress(datetime.now(UTC).isoformat(), day, study, digest))
    progress = unfinished(sources.state)
    if progress is None:
        fail("no run was interrupted, there is nothing to go on with", 2)
    return progress


def _is_unknown(sources: "VerificationSources", report: "VerificationReport") -> bool:
    """Whether the run was about a study of which there is neither an instance nor a file, however old."""
    from pacs_server.index.integrity import Scope

    progress = report.progress
    if progress.study is None or progress.files or progress.instances or report.findings:
        return False
    return not sources.index.page(0, 1, Scope(study_instance_uid=progress.study))


def _repair(archive: "OpenArchive", sources: "VerificationSources") -> "Repair":
    from pacs_server.index.queries import QueryIndex
    from pacs_server.upkeep.repair import RepairService

    queries = QueryIndex(archive.database)
    return RepairService(archive.archive, archive.files, sources.index, queries, archive.audit).repair


def _print_report(report: "VerificationReport", run: "Verification", output: Path | None) -> None:
    if output is None or str(output) != "-":
        for found in run.findings():
            name = " ".join(part for part in (found.uid, found.path) if part)
            done = f"; {found.repaired}" if found.repaired else ""
            echo(f"{found.kind}: {name}: {found.detail}{done}")
        typer.echo(_summary(report))
    if output is None:
        return
    if str(output) == "-":
        _write_json(sys.stdout, report, run)
        return
    try:
        with output.open("w", encoding="utf-8") as file:
            _write_json(file, report, run)
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}", 1)


def _summary(report: "VerificationReport") -> str:
    progress = report.progress
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(report.findings.items()))
    checked = f"{counted(progress.files, 'file')}, {counted(progress.instances, 'instance')} checked"
    rest = f"older versions {progress.older_versions}, incoming {report.incoming}, quarantine {report.quarantine}"
    if not kinds:
        return f"ok: {checked}; {rest}"
    return f"found: {kinds}; repaired {report.repaired}\n{checked}; {rest}"


def _write_json(file: TextIO, report: "VerificationReport", run: "Verification") -> None:
    """Write one JSON object, finding by finding, since there may be more findings than fit into memory."""
    progress = asdict(report.progress)
    head = {
        "started_at": progress["run"],
        "finished_at": report.finished_at.isoformat(),
        "clean": report.clean,
        **{name: progress[name] for name in ("since", "study", "digest", "files", "instances", "older_versions")},
        "incoming": report.incoming,
        "quarantine": report.quarantine,
        "counts": report.findings,
        "repaired": report.repaired,
    }
    file.write(json.dumps(head, indent=1)[:-2] + ',\n "findings": [')
    for number, found in enumerate(run.findings()):
        file.write((",\n  " if number else "\n  ") + json.dumps(asdict(found)))
    file.write("\n ]\n}\n")
