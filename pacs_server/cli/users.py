"""The commands of users, who identify themselves with a password: `pacs-server user add|passwd|remove|list`."""

import getpass
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, load_config
from pacs_server.cli.tables import print_table
from pacs_server.errors import UserError

if TYPE_CHECKING:
    from pacs_server.config.model import Config

app = typer.Typer(help="Users, for user identity at association.", no_args_is_help=True)

_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
_StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Take the password from the first line of standard input.")
]


@app.command()
def add(
    context: typer.Context, name: _NameArgument, *, password_stdin: _StdinOption = False, config: ConfigOption = None
) -> None:
    """Add a user; the running server knows the user at once."""
    from pacs_server.config.users import add_user, check_name

    check_name(name)
    password = _password(from_stdin=password_stdin)
    _change(load_config(context, config, check=False), name, "added", lambda path: add_user(path, name, password))


@app.command()
def passwd(
    context: typer.Context, name: _NameArgument, *, password_stdin: _StdinOption = False, config: ConfigOption = None
) -> None:
    """Give a user another password; associations in force stay."""
    from pacs_server.config.users import set_password

    settings = load_config(context, config, check=False)
    password = _password(from_stdin=password_stdin)
    _change(settings, name, "given another password", lambda path: set_password(path, name, password))


@app.command()
def remove(context: typer.Context, name: _NameArgument, config: ConfigOption = None) -> None:
    """Remove a user; associations in force stay."""
    from pacs_server.config.users import remove_user

    _change(load_config(context, config, check=False), name, "removed", lambda path: remove_user(path, name))


@app.command("list")
def list_users(context: typer.Context, config: ConfigOption = None) -> None:
    """List the names of the users."""
    from pacs_server.config.users import read_users

    names = sorted(read_users(load_config(context, config, check=False).user_identity.users_path))
    print_table(("USER",), ([name] for name in names))


def _change(config: "Config", name: str, done: str, change: Callable[[Path], None]) -> None:
    """Change the file of users and record the change. If the audit trail cannot be opened, nothing is changed."""
    from pacs_server.audit.events import Action, Event, EventID, EventType, NoAudit, Participant
    from pacs_server.audit.recorder import local_user
    from pacs_server.audit.trail import open_trail

    event = Event(
        EventID.SECURITY_ALERT,
        Action.EXECUTE,
        (local_user(), Participant(name)),
        event_type=EventType.USER_SECURITY_ATTRIBUTES_CHANGED,
        detail=f"user {name} {done}",
    )
    with open_trail(config.audit) if config.audit.enabled else nullcontext(NoAudit()) as trail:
        change(config.user_identity.users_path)
        typer.echo(f"user {name} {done}")
        trail.write(event)


def _password(*, from_stdin: bool) -> str:
    """Read the password from standard input, or have it typed twice without being shown. Raises UserError."""
    if from_stdin:
        try:
            return sys.stdin.readline(8192).removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise UserError("the password is not UTF-8 text") from None
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to ask for the password, use --password-stdin")
    first = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != first:
        raise UserError("the two passwords differ, nothing was changed")
    return first
