"""`pacs-server completion`: completion of commands and options in the shell."""

import os
from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)

PROGRAM = "pacs-server"
# The scripts set this variable when they call the program, and typer then prints completions instead of running it.
_VARIABLE = "_PACS_SERVER_COMPLETE"


class Shell(StrEnum):
    """The shells that can complete commands of this program."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="The shell that reads the script.")]) -> None:
    """Print a script that makes the shell complete commands and options."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=_VARIABLE, shell=shell.value))


def prepare() -> None:
    """Be ready to answer one of the scripts, if one of them calls the program; must precede the command line."""
    if _VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
