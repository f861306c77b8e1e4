"""The commands that describe a server: `pacs-server status` and `conformance`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pacs_server.cli.options import ConfigOption, fail, load_config, shown, source

app = typer.Typer(rich_markup_mode=None)


@app.command()
def status(context: typer.Context, config: ConfigOption = None) -> None:
    """Print the status of the running server."""
    from pacs_server.kit.logs import escaped

    settings = load_config(context, config, check=False)
    monitoring = settings.monitoring
    if not monitoring.enabled or monitoring.metrics_port == 0:
        fail("the status needs monitoring.enabled and a fixed monitoring.metrics_port", 1)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(monitoring.host, monitoring.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{monitoring.metrics_port}/status"
    # Without a file the server may well run, and its port be another one.
    hint = f". {source(settings)}" if settings.source is None else ""
    for line in _readable(_get(url, hint)):
        typer.echo(escaped(line))


def _get(url: str, hint: str) -> object:
    """The JSON document at `url`, requested without a proxy; `hint` follows the sentence that nobody answers."""
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=10) as response:
            return json.loads(response.read(1_048_576))
    except HTTPError as error:
        error.close()
        fail(f"{url} answers {error.code} {error.reason}; is it this server?", 1)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        fail(f"no server answers at {url}: {getattr(reason, 'strerror', None) or reason}{hint}", 1)
    except ValueError:
        fail(f"what answers at {url} is not this server", 1)


def _readable(value: object, indent: str = "") -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{indent}{shown(value)}"
        return
    for key, item in value.items():
        if isinstance(item, dict | list) and item:
            yield f"{indent}{key}:"
            for part in [item] if isinstance(item, dict) else item:
                yield from _readable(part, indent + "  ")
        else:
            yield f"{indent}{key}: {shown(None if item in ([], {}) else item)}"


@app.command()
def conformance(
    context: typer.Context,
    config: ConfigOption = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file instead of printing.")] = None,
) -> None:
    """Print the DICOM conformance statement of this server as configured."""
    from pacs_server.app.conformance import statement

    text = statement(load_config(context, config, check=False))
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}", 1)
