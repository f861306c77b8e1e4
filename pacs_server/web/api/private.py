"""REST: the private elements of an instance by their creators, and what is known of them under standard names."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.private_elements import PrivateElement, private_elements
from pacs_server.dicom.private_known import Normalised, normalised
from pacs_server.dicom.vendors import vendor_of_object
from pacs_server.errors import TooLarge
from pacs_server.web.api.operation import Answer, Call, Operation
from pacs_server.web.api.tags import metadata_of
from pacs_server.web.services import WebServices

# The attributes of an instance of very many frames are more than an answer that is put together should have.
MOST_BYTES: Final = 8 << 20


class PrivateValue(Answer):
    """A private element."""

    tag: str
    creator: str
    element: Annotated[str, Field(description="The tag without the block, which may move: 0019xx0C.")]
    name: Annotated[str, Field(description="From pydicom's dictionary of private elements; empty if it is not there.")]
    vr: str
    values: Annotated[list[Any], Field(description="Empty for a sequence and for what is not kept in the metadata.")]


class StandardValue(Answer):
    """A value that the vendor keeps in private elements, as the Standard has it."""

    keyword: Annotated[str, Field(description="The keyword of the attribute, or a name if the Standard has none.")]
    tag: Annotated[str, Field(description="The tag of the attribute in the Standard; empty if it has none.")]
    values: list[float]
    where: Annotated[str, Field(description="The item that has it, as 52009230[1].2005140F[1]; empty for none.")]
    creator: str
    elements: Annotated[list[str], Field(description="The tags of the private elements that it was read from.")]
    source: Annotated[str, Field(description="Where it is said that these elements mean that.")]


class PrivateElements(Answer):
    """The private elements of an instance, and what is known of them."""

    vendor: Annotated[str, Field(description="By Manufacturer, else by private creators; empty if it is not known.")]
    standard: Annotated[
        list[StandardValue], Field(description="What the instance does not have in the attribute of the Standard.")
    ]
    private: Annotated[list[PrivateValue], Field(description="The private elements outside of sequences.")]


class Private:
    """The resource private of an instance."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/instances/{instance}/private", name="show_private", tag="instances",
                role=Role.READER, summary="Show the private elements of an instance, by creator and standard name.",
                description="Blocks are found by their creators, wherever they are. Nothing stored is changed by it.",
                parts={"instance": "SOP Instance UID."}, answer=PrivateElements, run=self._show,
                errors={404: "There is no such instance.", 406: "It has too many attributes."},
            )
        ]  # fmt: skip

    def _show(self, call: Call[Any, None]) -> Answer:
        data_set = json.loads(_joined(metadata_of(self._services, call)))
        return view(data_set)


def view(data_set: DataSet) -> PrivateElements:
    """The answer for a data set in the DICOM JSON Model."""
    vendor = vendor_of_object(data_set)
    return PrivateElements(
        vendor="" if vendor is None else vendor.name,
        standard=standard_of(data_set),
        private=[_private(each) for each in private_elements(data_set)],
    )


def standard_of(data_set: DataSet) -> list[StandardValue]:
    """What a data set has in private elements, under standard names."""
    return [_standard(each) for each in normalised(data_set)]


def _joined(pieces: Iterator[bytes]) -> bytes:
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > MOST_BYTES:
            raise TooLarge("the instance has too many attributes to be shown together")
    return bytes(found)


def _private(each: PrivateElement) -> PrivateValue:
    values = [] if each.vr == "SQ" else each.values()
    return PrivateValue(
        tag=each.tag, creator=each.creator, element=each.number, name=each.name, vr=each.vr, values=values
    )


def _standard(each: Normalised) -> StandardValue:
    return StandardValue(
        keyword=each.known.keyword,
        tag=each.known.tag,
        values=each.values,
        where=each.path,
        creator=each.known.creator,
        elements=[element.tag for element in each.elements],
        source=each.known.source,
    )
