"""The commands of storage commitment: `pacs-server commitment list|retry`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, age, fail, open_archive
from pacs_server.cli.tables import print_table

if TYPE_CHECKING:
    from pacs_server.index.commitment import Summary

app = typer.Typer(help="Storage commitment transactions.", no_args_is_help=True)

_COLUMNS = ("ID", "STATUS", "AGE", "AE TITLE", "INSTANCES", "FAILED", "ATTEMPTS", "TRANSACTION UID", "LAST ERROR")


@app.command("list")
def list_transactions(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also list those that were reported.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to list, the newest.")] = 100,
    config: ConfigOption = None,
) -> None:
    """List the transactions whose report is not delivered yet, the newest last."""
    with open_archive(context, config) as archive:
        summaries = archive.commitment.summaries(everything=everything, limit=limit)
    now = datetime.now(UTC)
    print_table(_COLUMNS, (_cells(summary, now) for summary in summaries), wrapping=("LAST ERROR",))


@app.command()
def retry(
    context: typer.Context,
    key: Annotated[int, typer.Argument(metavar="ID", help="The number that `commitment list` prints.")],
    config: ConfigOption = None,
) -> None:
    """Report a transaction now, even if it was given up. The running server starts within ten seconds."""
    with open_archive(context, config) as archive:
        if not archive.commitment.retry(key):
            fail(f"there is no transaction {key} that is not reported yet", 1)
    typer.echo(f"transaction {key} is due")


def _cells(summary: "Summary", now: datetime) -> tuple[str, ...]:
    transaction = summary.transaction
    return (
        str(transaction.id),
        transaction.status,
        age((now - transaction.requested_at).total_seconds()),
        transaction.calling_ae,
        str(summary.instances),
        str(summary.failed),
        str(transaction.attempts),
        transaction.transaction_uid,
        transaction.last_error or "-",
    )
