"""`pacs-server serve-temporary`: a server for the tests of software in any language."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command("serve-temporary")
def serve_temporary(
    *,
    studies: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="A file, a folder, or synthetic:ct=2; may be given several times."),
    ] = None,
    ae_title: Annotated[str, typer.Option(help="The AE title of the server.")] = "PACS",
    destination: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TITLE", help="A Storage SCP for C-MOVE, in addition to the server. Default: DESTINATION."
        ),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Also listen for DICOM over TLS, and use HTTPS.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as a line of JSON.")] = False,
) -> None:
    """Run a server for tests, in a temporary directory on free ports, until standard input is closed."""
    from pacs_server.testing import control
    from pacs_server.testing.temporary import temporary_pacs

    arguments: dict[str, Any] = {"studies": studies or (), "destinations": destination or ("DESTINATION",), "tls": tls}
    with _ended_by_signals(), temporary_pacs(ae_title=ae_title, **arguments) as pacs:
        found = control.addresses(pacs)
        if as_json:
            _say(json.dumps(found))
        else:
            for name, value in found.items():
                _say(f"{name}: {value}")
        control.serve(pacs, sys.stdin, _say)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Whatever ends the process, the directory of the server goes with it."""
    before = [(number, signal.signal(number, lambda *_: sys.exit(0))) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, flush=True)
