"""`pacs-server synthetic`: studies of nobody written as files, for those who test other software."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pacs_server.cli.options import fail
from pacs_server.kit.words import counted

if TYPE_CHECKING:
    from pacs_server.synthetic.spec import MadeStudy, Spec

app = typer.Typer(rich_markup_mode=None)

_KINDS: Final = {
    "ct": "CT of a chest.",
    "mr": "MR of a head: a T1 and a T2 weighted series.",
    "pet": "PET of a chest.",
    "cr": "Computed radiograph of a chest.",
    "dx": "Digital radiograph of a chest.",
    "mg": "Mammography: four views.",
    "us": "Ultrasound of a beating heart, with several frames.",
    "xa": "Coronary angiography, with several frames.",
    "enhanced_ct": "CT of a chest as one enhanced instance.",
    "slide": "Whole slide image.",
    "sr": "Report with measurements, added to a CT study.",
    "seg": "Segmentation, added to a CT study.",
    "rt": "Structure set, plan and dose, added to a CT study.",
}


def _with_kinds(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each kind in place of its `**counts`."""
    signature = inspect.signature(command)
    kinds = [
        inspect.Parameter(
            kind,
            inspect.Parameter.KEYWORD_ONLY,
            default=0,
            annotation=Annotated[
                int,
                typer.Option(f"--{kind.replace('_', '-')}", min=0, metavar="N", show_default=False, help=text),
            ],
        )
        for kind, text in _KINDS.items()
    ]
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__annotations__ = {one.name: one.annotation for one in (*own, *kinds)}
    command.__signature__ = signature.replace(parameters=[*own, *kinds])  # type: ignore[attr-defined]
    return command


@app.command()
@_with_kinds
def synthetic(  # noqa: PLR0913 - an option each
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory for the files, with a folder for each study.")
    ],
    *,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    images: Annotated[int | None, typer.Option(min=1, help="Images in each series of CT, MR and PET.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of US, XA and enhanced CT.")] = None,
    size: Annotated[int | None, typer.Option(help="Rows and columns of an image.")] = None,
    charset: Annotated[
        str, typer.Option(help="Specific Character Set, or `all`: a different one for each study.")
    ] = "ISO_IR 192",
    patient: Annotated[
        str | None, typer.Option(metavar="NAME", help="As Family^Given. The default is an invented patient.")
    ] = None,
    transfer_syntax: Annotated[str | None, typer.Option(help="A UID or keyword, such as JPEG2000Lossless.")] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Draw no name and number into the images.")] = False,
    **counts: int,
) -> None:
    """Write synthetic studies as files. Without options for kinds, write one study of each kind."""
    from pacs_server.synthetic.spec import Spec
    from pacs_server.synthetic.study import Options

    options = Options(charset=charset, patient=patient, text=not no_text)
    if size is not None:
        options["size"] = size
    if transfer_syntax is not None:
        options["transfer_syntax"] = transfer_syntax
    _write(Spec(counts, seed, images, frames, options), directory)


def _write(spec: "Spec", directory: Path) -> None:
    studies = files = 0
    try:
        for study in spec.studies():
            files += sum(1 for _ in _written(study, directory / f"{study.kind}-{study.seed}"))
            studies += 1
    except ValueError as error:
        fail(str(error), 2)
    except FileExistsError as error:
        fail(f"{error.filename} is there already", 1)
    except OSError as error:
        fail(f"{directory} cannot be written: {error.strerror or error}", 1)
    typer.echo(f"{counted(studies, 'study', 'studies')} with {counted(files, 'file', 'files')} in {directory}")


def _written(study: "MadeStudy", folder: Path) -> Iterator[Path]:
    """Write each instance when it is made, so that few are in memory at a time."""
    for number, ds in enumerate(study.instances):
        if number == 0:
            folder.mkdir(parents=True)
        path = folder / f"{ds.Modality.lower()}-{ds.SeriesNumber}-{ds.InstanceNumber:04}.dcm"
        ds.save_as(path, enforce_file_format=True)
        yield path
