"""`pacs-server peers seen`: the peers that asked for an association, and a suggestion of access rules for them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from pacs_server.cli.options import ConfigOption, fail, open_archive
from pacs_server.cli.tables import print_table
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.index.peers import PeerSeen

app = typer.Typer(help="Peers that asked for an association.", no_args_is_help=True)

_COLUMNS = (
    *("CALLING AE", "CALLED AE", "ADDRESS", "LAST SEEN", "FIRST SEEN", "COUNT"),
    *("OUTCOME", "TLS", "IMPLEMENTATION"),
)


@app.callback()
def _group() -> None:
    """Without a callback, Typer would make `peers` itself the command, because `seen` is the only one."""


@app.command()
def seen(
    context: typer.Context,
    *,
    rejected: Annotated[bool, typer.Option("--rejected", help="Only those that were rejected the last time.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
    suggest: Annotated[
        str | None, typer.Option(metavar="AE_TITLE", help="Print an entry for access_control.peers instead.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """List the peers that asked for an association, the latest first. The list is at most a minute old."""
    with open_archive(context, config) as archive:
        peers = archive.peers.list(rejected=rejected, calling_ae=suggest)
    if suggest is not None:
        for line in _suggestion(suggest, peers):
            typer.echo(line)
    elif as_json:
        typer.echo(json.dumps([asdict(peer) for peer in peers], indent=1, default=str))
    else:
        print_table(_COLUMNS, map(_cells, peers))
        if not peers:
            typer.echo("none yet; a running server is a minute behind at most", err=True)


def _cells(peer: "PeerSeen") -> tuple[str, ...]:
    return (
        *(peer.calling_ae or "-", peer.called_ae or "-", peer.address),
        *(f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (peer.last_seen_at, peer.first_seen_at)),
        *(str(peer.count), peer.outcome, "yes" if peer.tls else "no", peer.implementation_version_name or "-"),
    )


def _suggestion(title: str, peers: "Sequence[PeerSeen]") -> Iterator[str]:
    """An access rule, as lines of YAML, that allows this AE title from the addresses where it was seen."""
    from pydantic import ValidationError

    from pacs_server.config.sections.access_control import PeerRule, PeerService

    if not peers:
        fail(f"no peer of the title {title} was seen", 1)
    try:
        # An AE title may contain a star. In a rule the star would be a pattern that fits every title.
        rule = PeerRule(ae_title=title.replace("*", "?"))
    except ValidationError:
        fail("that is no AE title (PS3.5 6.2), so that no rule can name it", 1)
    yield f"    - ae_title: {json.dumps(rule.ae_title)}"
    yield "      # Keep the addresses that you know."
    yield "      addresses:"
    for address in dict.fromkeys(peer.address for peer in peers):
        times = counted(sum(peer.count for peer in peers if peer.address == address), "time")
        last = next(peer for peer in peers if peer.address == address)
        yield f'        - "{address}"  # {times}, last {last.last_seen_at:%Y-%m-%d %H:%M}: {last.outcome}'
    yield "      # Take out what it does not need."
    yield f"      allow: [{', '.join(get_args(PeerService))}]"
    if all(peer.tls for peer in peers):
        yield "      require_tls: true"
