"""REST: users, and the API keys of programs."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.config.rights import Rights, RoleName
from pacs_server.dicom.caller import Role
from pacs_server.dicom.patient_id import patient_of, patient_text
from pacs_server.dicom.scope import Scope
from pacs_server.errors import NotFound, UserError
from pacs_server.services.api_keys import APIKey
from pacs_server.web.api.operation import Answer, Body, Call, Operation
from pacs_server.web.services import WebServices

_USERS: Final = "users"
_KEYS: Final = "keys"
_USER: Final = {"user": "The name of a user."}
_KEY: Final = {"key": "The name of a key."}
_NO_USER: Final = {404: "There is no such user."}

Limits = Annotated[tuple[str, ...], Field(max_length=500)]
Password = Annotated[str, Field(min_length=8, max_length=1024, description="At least 8 characters.")]


class RightsBody(Body):
    """A role, and limits; an empty list does not limit. Only readers and contributors can have limits."""

    role: RoleName
    modalities: Annotated[Limits, Field(description="Only series of these modalities.")] = ()
    ae_titles: Annotated[Limits, Field(description="Only what came from these AE titles.")] = ()
    patients: Annotated[Limits, Field(description="Only these patients, each as ID or ID^^^ISSUER.")] = ()

    def rights(self) -> Rights:
        """The rights as a value."""
        return Rights(self.role, self.modalities, self.ae_titles, tuple(map(patient_of, self.patients)))


class NewUser(RightsBody):
    """A user to add."""

    name: Annotated[str, Field(description="1 to 64 printable characters without a colon.")]
    password: Password


class NewPassword(Body):
    """Another password."""

    password: Password


class NewKey(RightsBody):
    """A key to make."""

    name: Annotated[str, Field(description="What the key is for.")]
    expires_days: Annotated[int | None, Field(ge=1, le=3650, description="After how many days; null for never.")] = 90


class RightsRow(Answer):
    """Who has which role and limits."""

    name: str
    role: RoleName
    modalities: list[str]
    ae_titles: list[str]
    patients: list[str]


class UserRow(RightsRow):
    """A user."""


class Users(Answer):
    """The users, in the order of their names."""

    items: list[UserRow]


class KeyRow(RightsRow):
    """An API key without its secret."""

    state: Annotated[str, Field(description="working, expired or revoked.")]
    created: datetime
    created_by: str
    expires: datetime | None
    last_used: Annotated[datetime | None, Field(description="To the hour.")]


class Keys(Answer):
    """The API keys in the order in which they were made, those that no longer work too."""

    items: list[KeyRow]


class MadeKey(Answer):
    """A new key. It is shown this once, and kept nowhere."""

    name: str
    key: Annotated[str, Field(description="Send it as Authorization: Bearer KEY.")]


class UsersAndKeys:
    """The resources users and keys."""

    def __init__(self, services: WebServices) -> None:
        self._users = services.users
        self._keys = services.keys

    def operations(self) -> list[Operation]:
        """The operations of the resources."""
        return [*self._of_users(), *self._of_keys()]

    def _of_users(self) -> list[Operation]:
        role, tag = Role.ADMINISTRATOR, _USERS
        return [
            Operation(
                method="GET", path="/users", name="list_users", tag=tag, role=role,
                summary="List the users with their roles and limits.", answer=Users, run=self._list_users,
            ),
            Operation(
                method="POST", path="/users", name="add_user", tag=tag, role=role,
                summary="Add a user.", body=NewUser, answer=UserRow, status=201, run=self._add_user,
            ),
            Operation(
                method="PUT", path="/users/{user:path}/rights", name="set_rights", tag=tag, role=role, parts=_USER,
                summary="Give a user another role and other limits; logins of the user end.",
                body=RightsBody, answer=UserRow, run=self._set_rights, errors=_NO_USER,
            ),
            Operation(
                method="PUT", path="/users/{user:path}/password", name="set_password", tag=tag, role=role, parts=_USER,
                summary="Give a user another password; logins of the user end.",
                body=NewPassword, run=self._set_password, errors=_NO_USER,
            ),
            Operation(
                method="DELETE", path="/users/{user:path}", name="remove_user", tag=tag, role=role, parts=_USER,
                summary="Remove a user; logins of the user end.", run=self._remove_user, errors=_NO_USER,
            ),
        ]  # fmt: skip

    def _of_keys(self) -> list[Operation]:
        role, tag = Role.ADMINISTRATOR, _KEYS
        return [
            Operation(
                method="GET", path="/keys", name="list_keys", tag=tag, role=role,
                summary="List the API keys.", answer=Keys, run=self._list_keys,
            ),
            Operation(
                method="POST", path="/keys", name="create_key", tag=tag, role=role,
                summary="Make an API key for a program.", body=NewKey, answer=MadeKey, status=201,
                run=self._create_key,
            ),
            Operation(
                method="DELETE", path="/keys/{key:path}", name="revoke_key", tag=tag, role=role, parts=_KEY,
                summary="Have a key work no longer.", run=self._revoke_key, errors={404: "There is no such key."},
            ),
        ]  # fmt: skip

    # ---------------------------------------------------------------- users

    def _list_users(self, call: Call[Any, None]) -> Answer:
        return Users(items=[_user(name, user.rights) for name, user in self._users.list().items()])

    def _add_user(self, call: Call[Any, NewUser]) -> Answer:
        asked = call.body
        self._users.add(asked.name, asked.password, asked.rights(), participant_of(call.caller))
        return _user(asked.name, asked.rights())

    def _set_rights(self, call: Call[Any, RightsBody]) -> Answer:
        name, rights = call.path["user"], call.body.rights()
        self._users.set_rights(name, rights, participant_of(call.caller))
        return _user(name, rights)

    def _set_password(self, call: Call[Any, NewPassword]) -> None:
        self._users.set_password(call.path["user"], call.body.password, participant_of(call.caller))

    def _remove_user(self, call: Call[Any, None]) -> None:
        self._users.remove(call.path["user"], participant_of(call.caller))

    # ---------------------------------------------------------------- keys

    def _list_keys(self, call: Call[Any, None]) -> Answer:
        return Keys(items=[_key(key) for key in self._keys.list()])

    def _create_key(self, call: Call[Any, NewKey]) -> Answer:
        asked = call.body
        lasts = None if asked.expires_days is None else timedelta(days=asked.expires_days)
        key = self._keys.create(asked.name, asked.rights(), lasts, participant_of(call.caller))
        return MadeKey(name=asked.name, key=key)

    def _revoke_key(self, call: Call[Any, None]) -> None:
        try:
            self._keys.revoke(call.path["key"], participant_of(call.caller))
        except UserError as error:
            raise NotFound(str(error)) from None


def _user(name: str, rights: Rights) -> UserRow:
    return UserRow(name=name, role=rights.role, **_limits(rights))  # type: ignore[arg-type]


def _key(key: APIKey) -> KeyRow:
    return KeyRow(
        name=key.name, role=key.role.name.lower(), **_limits(key.scope), state=key.state,  # type: ignore[arg-type]
        created=key.created, created_by=key.created_by, expires=key.expires, last_used=key.last_used,
    )  # fmt: skip


def _limits(limits: Rights | Scope) -> dict[str, list[str]]:
    return {
        "modalities": list(limits.modalities),
        "ae_titles": list(limits.ae_titles),
        "patients": [patient_text(*patient) for patient in limits.patients],
    }
