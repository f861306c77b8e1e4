"""The commands of users, who identify themselves with a password: `pacs-server user add|passwd|role|remove|list`."""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import ConfigOption, fail, load_config, source
from pacs_server.cli.rights import AEOption, ModalityOption, PatientOption, RoleOption, limits, rights
from pacs_server.cli.tables import print_table
from pacs_server.errors import UserError

if TYPE_CHECKING:
    from pacs_server.config.model import Config
    from pacs_server.services.users import UserService

app = typer.Typer(help="Users, for the web port and for user identity in associations.", no_args_is_help=True)

_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
_StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
]


@app.command()
def add(
    context: typer.Context,
    name: _NameArgument,
    *,
    role: RoleOption = "contributor",
    modality: ModalityOption = None,
    ae: AEOption = None,
    patient: PatientOption = None,
    password_stdin: _StdinOption = False,
    config: ConfigOption = None,
) -> None:
    """Add a user. The running server accepts the user at once."""
    from pacs_server.config.users import check_name

    with _arguments_checked():
        check_name(name)
    granted = rights(role, modality, ae, patient)
    password = _password(from_stdin=password_stdin)
    settings = load_config(context, config, check=False)
    file = settings.user_identity.users_path
    is_new = not file.exists()
    with _users(settings) as users:
        users.add(name, password, granted)
        typer.echo(f"user {name} added as {granted.in_words}")
    if is_new:
        typer.echo(f"the file of users is new: {file} ({settings.where('user_identity.users_path')})", err=True)


@app.command()
def passwd(
    context: typer.Context, name: _NameArgument, *, password_stdin: _StdinOption = False, config: ConfigOption = None
) -> None:
    """Set a new password for a user. Web logins end; open associations stay."""
    settings = _settings_with_users(context, config)
    password = _password(from_stdin=password_stdin)
    with _users(settings) as users:
        users.set_password(name, password)
        typer.echo(f"user {name} given another password")


@app.command("role")
def set_role(
    context: typer.Context,
    name: _NameArgument,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="reader, contributor, operator or administrator.")],
    *,
    modality: ModalityOption = None,
    ae: AEOption = None,
    patient: PatientOption = None,
    config: ConfigOption = None,
) -> None:
    """Set a new role and new limits for a user. Web logins end; open associations stay."""
    granted = rights(role, modality, ae, patient)
    settings = _settings_with_users(context, config)
    with _users(settings) as users:
        users.set_rights(name, granted)
        typer.echo(f"user {name} made {granted.in_words}")


@app.command()
def remove(context: typer.Context, name: _NameArgument, config: ConfigOption = None) -> None:
    """Remove a user. Web logins end; open associations stay."""
    with _users(_settings_with_users(context, config)) as users:
        users.remove(name)
        typer.echo(f"user {name} removed")


@app.command("list")
def list_users(context: typer.Context, config: ConfigOption = None) -> None:
    """List the users with their roles and limits."""
    from pacs_server.config.users import read_users

    known = read_users(_settings_with_users(context, config).user_identity.users_path)
    rows = ([name, user.rights.role, limits(user.rights)] for name, user in sorted(known.items()))
    print_table(("USER", "ROLE", "LIMITS"), rows)


def _settings_with_users(context: typer.Context, config: Path | None) -> "Config":
    """The settings, if their file of users is there; ends the process with exit code 2 if not. Raises ConfigError."""
    settings = load_config(context, config, check=False)
    file = settings.user_identity.users_path
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        place = f"{file} ({settings.where('user_identity.users_path')})"
        fail(f"there is no file of users: {place} is not there, user add makes it. {source(settings)}", 2)
    except OSError:
        pass  # whoever reads the file says what is wrong with it
    return settings


@contextmanager
def _users(settings: "Config") -> Iterator["UserService"]:
    """The users, whose changes are recorded. If the audit trail cannot be opened or written, nothing is changed."""
    from pacs_server.audit.events import NoAudit
    from pacs_server.audit.recorder import Recorder
    from pacs_server.audit.trail import open_trail
    from pacs_server.services.users import UserService

    with open_trail(settings.audit) if settings.audit.enabled else nullcontext(NoAudit()) as trail:
        yield UserService(lambda: settings.user_identity.users_path, Recorder(trail, lambda: settings.server.ae_title))


def _password(*, from_stdin: bool) -> str:
    """Read a password that is allowed from standard input, or have it typed twice without being shown.

    Raises UserError if the two differ. Ends the process with exit code 2 if the password is not allowed.
    """
    from pacs_server.config.users import check_password

    with _arguments_checked():
        first = _password_of_stdin() if from_stdin else _typed_password()
        check_password(first)
    if not from_stdin and getpass.getpass("The same again: ") != first:
        raise UserError("the two passwords differ, nothing was changed")
    return first


def _password_of_stdin() -> str:
    try:
        return sys.stdin.readline(8192).removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UserError("the password is not UTF-8 text") from None


def _typed_password() -> str:
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to ask for the password, use --password-stdin")
    return getpass.getpass("Password: ")


@contextmanager
def _arguments_checked() -> Iterator[None]:
    """End the process with exit code 2 if the block finds a name or a password that is not allowed."""
    try:
        yield
    except UserError as error:
        fail(str(error), 2)
