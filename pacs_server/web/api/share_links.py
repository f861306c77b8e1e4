"""REST: links that show one study to somebody without an account."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Role
from pacs_server.index.share_links import ShareLinkRow
from pacs_server.web.api.marks import subjects_of_study
from pacs_server.web.api.operation import Answer, Body, Call, Operation
from pacs_server.web.policy import SHARE
from pacs_server.web.services import WebServices

_TAG: Final = "share links"
_PARTS: Final = {"study": "Study Instance UID.", "link": "The `id` of a link."}
_GONE: Final = {404: "There is no such study or link, or share links are switched off."}


class LinkRow(Answer):
    """A link to a study, without its secret."""

    id: str
    study: Annotated[str, Field(description="Study Instance UID.")]
    purpose: Annotated[str, Field(description="For whom it is.")]
    made_by: str
    made_at: datetime
    expires: datetime
    last_opened: Annotated[datetime | None, Field(description="When it was opened last; null if it never was.")]


class NewLinkRow(LinkRow):
    """A link that was just made."""

    url: Annotated[str, Field(description="The address to pass on. It is told only now, and kept nowhere.")]


class LinkRows(Answer):
    """The links to a study that work, the last made first."""

    items: list[LinkRow]


class NewLink(Body):
    """What the link is to be like."""

    hours: Annotated[
        int | None,
        Field(ge=1, le=87_600, description="How long it works; as long as `web.share_links` says if not given."),
    ] = None
    purpose: Annotated[str, Field(max_length=100, description="For whom it is; kept, and in the audit trail.")] = ""


class ShareLinks:
    """The resource share links of a study. Those who have opened a link make no others."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/studies/{study}/links", name="list_share_links", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="List the links to a study that work.", parts=_PARTS, answer=LinkRows, run=self._list,
                errors=_GONE,
            ),
            Operation(
                method="POST", path="/studies/{study}/links", name="make_share_link", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Make a link that shows a study to somebody without an account, as a reader, for a while.",
                description="It shows no more of the study than you see.",
                parts=_PARTS, body=NewLink, answer=NewLinkRow, status=201, run=self._make, errors=_GONE,
            ),
            Operation(
                method="DELETE", path="/studies/{study}/links/{link}", name="revoke_share_link", tag=_TAG,
                role=Role.CONTRIBUTOR, summary="Have a link work no longer: your own one, or as an operator any.",
                parts=_PARTS, run=self._revoke, errors=_GONE,
            ),
        ]  # fmt: skip

    def _list(self, call: Call[Any, None]) -> Answer:
        subjects = subjects_of_study(self._services, call)
        links = self._services.share_links.of_study(subjects[0].study_instance_uid)
        return LinkRows(items=[LinkRow(**_fields(row)) for row in links])

    def _make(self, call: Call[Any, NewLink]) -> Answer:
        body, subject = call.body, subjects_of_study(self._services, call)[0]
        lasts = None if body.hours is None else timedelta(hours=body.hours)
        row, token = self._services.share_links.make(subject, lasts, body.purpose, call.caller)
        # What is behind # is sent to no server, and so is in no log of a proxy.
        return NewLinkRow(**_fields(row), url=f"{call.base}{SHARE}#{token}")

    def _revoke(self, call: Call[Any, None]) -> None:
        subject, who = subjects_of_study(self._services, call)[0], participant_of(call.caller)
        others = call.caller.role >= Role.OPERATOR
        self._services.share_links.revoke(call.path["link"], subject, who, others=others)


def _fields(row: ShareLinkRow) -> dict[str, Any]:
    return {
        "id": row.link, "study": row.study_instance_uid, "purpose": row.purpose, "made_by": row.made_by,
        "made_at": row.made_at, "expires": row.expires, "last_opened": row.last_opened,
    }  # fmt: skip
