"""Users and API keys: who may do what, and adding, changing and removing them."""

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.errors import InvalidRequest, NotFound, UserError
from pacs_server.web.caller import caller_of
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages
from pacs_server.web.pages.refused import NOTHING_REFUSED, Refused, refusal_of

ROLES: Final = {
    "reader": marked("sees studies, the worklist and the state of the server"),
    "contributor": marked("also stores, sends, marks, and changes the worklist"),
    "operator": marked("also looks after the archive: conflicts, deleting, tasks, network, storage"),
    "administrator": marked("also manages users and keys, purges, and reads the audit trail and the settings"),
}
NAMES: Final = {
    "reader": marked("reader"), "contributor": marked("contributor"),
    "operator": marked("operator"), "administrator": marked("administrator"),
}  # fmt: skip
_DONE: Final = {
    "added": marked("The user is added."),
    "rights": marked("The rights were changed. The user has to log in again."),
    "password": marked("The password was changed. The user has to log in again."),
    "removed": marked("The user is removed."),
    "revoked": marked("The key is no longer valid."),
}
_ADD_FIRST: Final = "pacs-server user add ann --role administrator"
# What somebody typed may be the cause of it.
_REFUSED: Final = (InvalidRequest, UserError)
Fields = Mapping[str, str]


class Users:
    """The room /users."""

    entries = (Entry(marked("Users and keys"), "/users", "people", Role.ADMINISTRATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The lists, one user, and what the forms do."""
        guarded = self._pages.guarded
        return [
            Route("/users", guarded(self._list), methods=["GET"]),
            Route("/users", guarded(self._add), methods=["POST"]),
            Route("/users/change", guarded(self._change), methods=["GET"]),
            Route("/users/rights", guarded(self._set_rights), methods=["POST"]),
            Route("/users/password", guarded(self._set_password), methods=["POST"]),
            Route("/users/remove", guarded(self._remove), methods=["POST"]),
            Route("/users/keys", guarded(self._create_key), methods=["POST"]),
            Route("/users/keys/revoke", guarded(self._revoke_key), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        caller = caller_of(request)
        if caller.user is None and caller.role < Role.ADMINISTRATOR and not caller.certificate:
            # Nobody has to log in yet.
            source = self._pages.services.config().source
            named = "" if source is None else f" --config {shlex.quote(str(source.absolute()))}"
            return self._pages.show(request, "users_open.html", command=f"{_ADD_FIRST}{named}", has_file=bool(named))
        return await self._lists(request)

    async def _lists(self, request: Request, made: Any = None, refused: Refused = NOTHING_REFUSED) -> Response:
        users = await self._pages.ask(request, "list_users")
        keys = await self._pages.ask(request, "list_keys")
        return self._pages.show(
            request, "users.html", refused.status, users=users.items, keys=keys.items, made=made,
            roles=ROLES, names=NAMES, refused=refused,
            said=_DONE.get(request.query_params.get("said", "")),
        )  # fmt: skip

    async def _add(self, request: Request) -> Response:
        form = await self._pages.form(request)
        given = {"name": form.get("name", "").strip(), **_rights(form)}
        try:
            await self._pages.ask(request, "add_user", body={**given, "password": _password(form)})
        except _REFUSED as error:
            return await self._lists(request, refused=refusal_of("new", error, given))
        return self._pages.go(request, "/users", said="added")

    async def _change(self, request: Request) -> Response:
        return await self._one(request, request.query_params.get("name", ""))

    async def _one(self, request: Request, name: str, refused: Refused = NOTHING_REFUSED) -> Response:
        users = await self._pages.ask(request, "list_users")
        user = next((each for each in users.items if each.name == name), None)
        if user is None:
            raise NotFound("there is no user of this name")
        status = refused.status
        return self._pages.show(request, "user.html", status, user=user, roles=ROLES, names=NAMES, refused=refused)

    async def _set_rights(self, request: Request) -> Response:
        form = await self._pages.form(request)
        name, given = form.get("name", ""), _rights(form)
        try:
            await self._pages.ask(request, "set_rights", path={"user": name}, body=given)
        except _REFUSED as error:
            return await self._one(request, name, refusal_of("user", error, given))
        return self._pages.go(request, "/users", said="rights")

    async def _set_password(self, request: Request) -> Response:
        form = await self._pages.form(request)
        name = form.get("name", "")
        try:
            await self._pages.ask(request, "set_password", path={"user": name}, body={"password": _password(form)})
        except _REFUSED as error:
            return await self._one(request, name, refusal_of("password", error, {}))
        return self._pages.go(request, "/users", said="password")

    async def _remove(self, request: Request) -> Response:
        form = await self._pages.form(request)
        await self._pages.ask(request, "remove_user", path={"user": form.get("name", "")})
        return self._pages.go(request, "/users", said="removed")

    async def _create_key(self, request: Request) -> Response:
        form = await self._pages.form(request)
        days = form.get("expires", "").strip()
        given = {"name": form.get("name", "").strip(), **_rights(form)}
        try:
            made = await self._pages.ask(request, "create_key", body={**given, "expires_days": _number(days)})
        except _REFUSED as error:
            return await self._lists(request, refused=refusal_of("key", error, {**given, "expires": days}))
        # This once, and in no address: so there is no other page to go to.
        return await self._lists(request, made)

    async def _revoke_key(self, request: Request) -> Response:
        form = await self._pages.form(request)
        await self._pages.ask(request, "revoke_key", path={"key": form.get("name", "")})
        return self._pages.go(request, "/users", said="revoked")


def _number(days: str) -> int | None:
    if days and not (days.isdecimal() and days.isascii() and len(days) < 6):
        raise InvalidRequest("the key expires after a number of days, or never if there is none")
    return int(days) if days else None


def _rights(form: Fields) -> dict[str, object]:
    """The role and the limits of a form: words apart by commas, patients one on each line."""
    words = {name: re.split(r"[,\n]", form.get(name, "")) for name in ("modalities", "ae_titles")}
    limits = words | {"patients": form.get("patients", "").splitlines()}
    return {"role": form.get("role", "")} | {
        name: [text.strip() for text in found if text.strip()] for name, found in limits.items()
    }


def _password(form: Fields) -> str:
    password = form.get("password", "")
    if password != form.get("again", ""):
        raise InvalidRequest("the two passwords are not the same")
    return password
