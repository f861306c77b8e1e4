"""What retrievals of frames and rendered pictures share: the instance, its audit record, its validator."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Final, TypeVar

from starlette.requests import Request

from pacs_server.audit.auditor import Auditor
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.subject import Subject
from pacs_server.errors import NotFound
from pacs_server.index.instances import StoredInstance
from pacs_server.index.queries import Selection
from pacs_server.kit.recently import Recently
from pacs_server.services.retrieve import RetrieveService
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.transfers import Transfer
from pacs_server.web.threads import Threads

T = TypeVar("T")
# A viewer asks for hundreds of frames of one instance one by one. Who looked at it is recorded once in so many seconds.
_SECONDS: Final = 60.0
_MOST_VIEWS: Final = 10_000
# So many frames are decoded, rendered or encoded at a time.
_AT_ONCE: Final = 2


def keys_of(uids: dict[str, Any]) -> RetrieveKeys:
    """The instances below a path that names a study, or also a series, or also an instance."""
    study, series, instance = (uids.get(name) for name in ("study", "series", "instance"))
    level = Level.IMAGE if instance else Level.SERIES if series else Level.STUDY
    named = (((uid,) if uid else ()) for uid in (study, series, instance))
    return RetrieveKeys(level, (), *named)


def select(retrieve: RetrieveService, uids: dict[str, Any], caller: Caller) -> list[StoredInstance]:
    """The instances below a path that the caller may see; raises NotFound if there are none."""
    found = retrieve.select(keys_of(uids), caller.scope)
    if not found:
        raise _nothing()
    return found


def select_with_subjects(retrieve: RetrieveService, uids: dict[str, Any], caller: Caller) -> Selection:
    """The instances below a path that the caller may see, and whose they are; raises NotFound if there are none."""
    found = retrieve.select_with_subjects(keys_of(uids), caller.scope)
    if not found.instances:
        raise _nothing()
    return found


def _nothing() -> NotFound:
    return NotFound("there is no such study, series or instance")


def entity_tag(instance: StoredInstance, *rest: object) -> str:
    """A strong validator of what is made of an instance and whatever else decides how it looks (RFC 9110 8.8.3)."""
    return f'"{sha256(repr((instance.digest, instance.transfer_syntax_uid, *rest)).encode()).hexdigest()[:32]}"'


class Views:
    """Records in the audit trail who looks at which instance, before the first byte of it is sent.

    Frame after frame of one instance, as viewers ask for them, is one view; may be shared by all threads.
    """

    def __init__(
        self, auditor: Auditor, retrieve: RetrieveService, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._auditor = auditor
        self._retrieve = retrieve
        self._recent = Recently(_SECONDS, _MOST_VIEWS, clock=clock)

    def record(self, caller: Caller, instance: StoredInstance) -> None:
        """Record that something of an instance is sent to the caller. Raises AuditUnavailable, IndexUnavailable."""
        self.record_all(caller, "", [instance])

    def recorder(self, request: Request) -> Callable[[StoredInstance], None]:
        """Records what is sent to the one who makes the request: nothing if that is HEAD."""
        if request.method == "HEAD":
            return lambda instance: None
        return partial(self.record, caller_of(request))

    def record_all(self, caller: Caller, what: str, instances: Sequence[StoredInstance]) -> None:
        """Record that something of these instances is sent to the caller; `what` tells what.

        Raises AuditUnavailable, IndexUnavailable.
        """
        named = instances[0].uids.sop if len(instances) == 1 else str(hash(tuple(each.uids for each in instances)))
        if (key := self._key(caller, f"{what} {named}")) in self._recent:
            return
        transfer = self.transfer(caller, instances)
        for instance in instances:
            transfer.completed(instance)
        transfer.end()
        self._recent.add(key)

    def transfer(
        self,
        caller: Caller,
        instances: Sequence[StoredInstance],
        subjects: Sequence[Subject] | None = None,
    ) -> Transfer:
        """Record that these instances are going to be sent to the caller: durably, unless their study just was.

        `subjects` say whose they are; the index is asked if nobody knows that yet. Raises AuditUnavailable,
        IndexUnavailable.
        """
        # The instances of one request are of one study.
        key = self._key(caller, f"study {instances[0].uids.study}")
        durable = key not in self._recent
        whose = partial(self._retrieve.subjects, instances) if subjects is None else lambda: subjects
        transfer = Transfer(self._auditor, caller, instances, whose, durable=durable)
        if durable:
            self._recent.add(key)
        return transfer

    def _key(self, caller: Caller, what: str) -> tuple[str | None, str, str]:
        return caller.user, caller.address, what


class Workers:
    """Runs what takes processor time and memory in threads, a few at a time."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._threads = Threads(at_once)

    def run(self, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """What the function returns; waits for its turn without holding a thread."""
        return self._threads.run(function, *arguments)
