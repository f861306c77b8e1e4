"""What the commands of users and of API keys share: options for roles and limits, and how these are shown."""

from typing import TYPE_CHECKING, Annotated

import typer

from pacs_server.cli.options import fail
from pacs_server.dicom.patient_id import patient_of, patient_text
from pacs_server.errors import UserError

if TYPE_CHECKING:
    from pacs_server.config.rights import Rights

RoleOption = Annotated[
    str, typer.Option("--role", metavar="ROLE", help="reader, contributor, operator or administrator.")
]
ModalityOption = Annotated[
    list[str] | None, typer.Option("--modality", metavar="CS", help="Only series of this modality; may be repeated.")
]
AEOption = Annotated[
    list[str] | None, typer.Option("--ae", metavar="AE", help="Only what was sent by this AE title; may be repeated.")
]
PatientOption = Annotated[
    list[str] | None,
    typer.Option("--patient", metavar="ID", help="Only this patient, ID or ID^^^ISSUER; may be repeated."),
]


def rights(
    role: str, modalities: list[str] | None, ae_titles: list[str] | None, patients: list[str] | None
) -> "Rights":
    """The rights that options name; ends the process with exit code 2 if nobody may have them."""
    from pacs_server.config.rights import Rights, check_rights

    found = Rights(role, tuple(modalities or ()), tuple(ae_titles or ()), tuple(map(patient_of, patients or ())))
    try:
        check_rights(found)
    except UserError as error:
        fail(str(error), 2)
    return found


def limits(rights: "Rights") -> str:
    """The limits in words, for tables; '' without any."""
    people = [patient_text(*patient) for patient in rights.patients]
    named = (("modality", rights.modalities), ("AE", rights.ae_titles), ("patient", people))
    return "; ".join(f"{name} {', '.join(values)}" for name, values in named if values)
