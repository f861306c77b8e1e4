"""Users of the file of users: list, add, change, remove; each change is in the audit trail before it is made."""

from collections.abc import Callable
from pathlib import Path

from pacs_server.audit.events import Action, Event, EventID, EventType, Participant
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.config.rights import Rights, User, check_rights
from pacs_server.config.users import (
    add_user,
    check_known,
    check_name,
    check_password,
    read_users,
    remove_user,
    set_password,
)
from pacs_server.config.users import set_rights as write_rights
from pacs_server.dicom.subject import Subject
from pacs_server.errors import NotFound, UserError


class UserService:
    """Keeps users; may be shared by all threads. Every method raises UserError if the file cannot be used.

    Methods that change something raise AuditUnavailable, and take `by`, who asks for the change; without it, that is
    the user who runs this process. Logins of a changed user end.
    """

    def __init__(self, path: Callable[[], Path], recorder: Recorder) -> None:
        self._path = path
        self._recorder = recorder

    def list(self) -> dict[str, User]:
        """The users by name, in the order of their names."""
        return dict(sorted(read_users(self._path()).items()))

    def add(self, name: str, password: str, rights: Rights, by: Participant | None = None) -> None:
        """Add a user. Raises UserError if the name is taken, or name, password or rights cannot be."""
        check_name(name)
        check_password(password)
        check_rights(rights)
        if name in self.list():
            raise UserError(f"there is a user {name} already")
        self._record(by, name, f"added as {rights.in_words}", rights)
        add_user(self._path(), name, password, rights)

    def set_password(self, name: str, password: str, by: Participant | None = None) -> None:
        """Give a user another password. Raises NotFound, UserError."""
        check_password(password)
        self._check_known(name)
        self._record(by, name, "given another password")
        set_password(self._path(), name, password)

    def set_rights(self, name: str, rights: Rights, by: Participant | None = None) -> None:
        """Give a user another role and other limits. Raises NotFound, UserError."""
        check_rights(rights)
        self._check_known(name)
        self._record(by, name, f"made {rights.in_words}", rights)
        write_rights(self._path(), name, rights)

    def remove(self, name: str, by: Participant | None = None) -> None:
        """Remove a user. Raises NotFound."""
        self._check_known(name)
        self._record(by, name, "removed")
        remove_user(self._path(), name)

    def _check_known(self, name: str) -> None:
        users = self.list()
        try:
            check_known(users, name)
        except UserError as error:
            raise NotFound(str(error)) from None

    def _record(self, by: Participant | None, name: str, done: str, rights: Rights | None = None) -> None:
        # The only place in an event for a patient is its subjects.
        patients = rights.patients if rights is not None else ()
        event = Event(
            EventID.SECURITY_ALERT,
            Action.EXECUTE,
            (by or local_user(), Participant(name)),
            event_type=EventType.USER_SECURITY_ATTRIBUTES_CHANGED,
            subjects=tuple(Subject(*patient) for patient in patients),
            detail=f"user {name} {done}",
        )
        self._recorder.write(event)
