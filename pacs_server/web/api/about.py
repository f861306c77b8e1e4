"""REST: what this server is: its version, what it speaks, its conformance statement, and the programs it is made of."""

from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server import __version__
from pacs_server.dicom.caller import Role
from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.kit.third_parties import third_parties
from pacs_server.web.api.operation import PREFIX, Answer, Call, Operation
from pacs_server.web.services import WebServices

_TAG: Final = "server"
_LICENCE: Final = "MIT"


class Component(Answer):
    """A program of others that this server is made of."""

    name: str
    version: str
    licence: Annotated[str, Field(description="As its package tells; empty if it does not.")]


class About(Answer):
    """What this server is, and where it can be reached."""

    version: str
    licence: str
    implementation_class_uid: str
    implementation_version_name: str
    ae_title: str
    dicom_address: Annotated[str, Field(description="Where it listens for DICOM, as HOST:PORT.")]
    dicom_tls_address: Annotated[str | None, Field(description="Where it listens for DICOM over TLS; null if not.")]
    dicomweb: Annotated[str, Field(description="The address of DICOMweb, as this caller reaches it.")]
    rest: Annotated[str, Field(description="The address of the REST API.")]
    sop_classes: Annotated[list[str], Field(description="The SOP classes that it serves, without those it stores.")]
    storage_sop_classes: Annotated[list[str], Field(description="The SOP classes of objects that it knows to store.")]
    stores_unknown: Annotated[bool, Field(description="Whether objects of other SOP classes are stored as well.")]
    transfer_syntaxes: Annotated[list[str], Field(description="The transfer syntaxes of what it stores.")]
    components: list[Component]


class Statement(Answer):
    """The DICOM conformance statement (PS3.2)."""

    markdown: str


class AboutServer:
    """The resources about and conformance."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resources."""
        return [
            Operation(
                method="GET", path="/about", name="show_about", tag=_TAG, role=Role.READER,
                summary="Show what this server is, what it speaks, and the programs of others that it is made of.",
                answer=About, run=self._about,
            ),
            Operation(
                method="GET", path="/conformance", name="show_conformance", tag=_TAG, role=Role.READER,
                summary="Show the DICOM conformance statement of this server as configured, in Markdown.",
                answer=Statement, run=self._statement,
            ),
        ]  # fmt: skip

    def _about(self, call: Call[Any, None]) -> Answer:
        config, spoken, status = self._services.config(), self._services.spoken, self._services.status()
        tls = status.get("tls_address")
        return About(
            version=__version__, licence=_LICENCE,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID, implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            ae_title=config.server.ae_title, dicom_address=str(status["address"]),
            dicom_tls_address=None if tls is None else str(tls),
            dicomweb=f"{call.base}/dicom-web", rest=f"{call.base}{PREFIX}",
            sop_classes=list(spoken.sop_classes), storage_sop_classes=list(spoken.storage_sop_classes),
            stores_unknown=config.storage.accept_unknown_sop_classes,
            transfer_syntaxes=list(spoken.transfer_syntaxes),
            components=[
                Component(name=each.name, version=each.version, licence=each.licence) for each in third_parties()
            ],
        )  # fmt: skip

    def _statement(self, call: Call[Any, None]) -> Answer:
        return Statement(markdown=self._services.spoken.statement())
