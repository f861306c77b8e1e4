"""Forms that could not be taken: they come back with what was typed and why that was wrong."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from pacs_server.errors import PacsError
from pacs_server.web.status import status_of


@dataclass(frozen=True, slots=True)
class Refused:
    """A form that could not be taken: which one, why, and what was typed, but for passwords."""

    form: str
    why: str
    given: Mapping[str, object]
    status: int = HTTPStatus.BAD_REQUEST
    # The fields that are at fault; without them, the message is about the form.
    fields: Collection[str] = ()

    def of(self, form: str, name: str, default: str = "") -> object:
        """What was typed into a field of a form, or what stands there otherwise."""
        return self.given.get(name, default) if form == self.form else default

    def at(self, form: str, name: str) -> bool:
        """Whether the message is about this field."""
        return form == self.form and name in self.fields

    def rights(self, form: str) -> Mapping[str, object] | None:
        """The limits that were typed into a form, None if it is another one."""
        return self.given if form == self.form else None


NOTHING_REFUSED: Final = Refused("", "", {}, HTTPStatus.OK)


def refusal_of(form: str, error: PacsError, given: Mapping[str, object], *fields: str) -> Refused:
    """A form that could not be taken because of an error, which has the status of its answer."""
    return Refused(form, str(error), given, status_of(error), fields)
