"""Rules by which a temporary server fails on purpose, so that tests reach the error paths of a client."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self, TypedDict, TypeVar, Unpack


@dataclass(frozen=True, slots=True)
class Request:
    """What a rule is asked about: an operation such as C-STORE, the proposal A-ASSOCIATE, or an HTTP method.

    `path` is that of an HTTP request; what does not apply is empty.
    """

    operation: str
    calling_ae: str = ""
    called_ae: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    path: str = ""


class Which(TypedDict, total=False):
    """To which requests a rule applies: all that fit these, `skip` of them left out first, and `times` at most."""

    times: int
    skip: int
    calling_ae: str
    when: Callable[[Request], bool]


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with a status; for C-FIND after so many matches."""

    status: int
    comment: str = ""
    after_matches: int = 0


@dataclass(frozen=True, slots=True)
class Delay:
    """Answer so many seconds later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Abort:
    """Send an A-ABORT instead of an answer (PS3.8 9.3.8)."""

    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Cut the connection after so many bytes or PDUs from here on, sent, or received if `received`."""

    after_bytes: int | None
    after_pdus: int | None
    received: bool
    reset: bool


@dataclass(frozen=True, slots=True)
class Reject:
    """Reject the association (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Add these to the true numbers of sub-operations in responses to C-GET and C-MOVE."""

    completed: int
    failed: int
    warning: int
    remaining: int


@dataclass(frozen=True, slots=True)
class HTTPStatus:
    """Answer an HTTP request with a status."""

    status: int
    body: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class HTTPCut:
    """End the connection after so many bytes of the body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class HTTPSlow:
    """Send the body with so many bytes a second."""

    bytes_per_second: int


Action = Status | Delay | Abort | Drop | Reject | Counts | HTTPStatus | HTTPCut | HTTPSlow
_Kind = TypeVar("_Kind", bound=Action)


@dataclass(slots=True, eq=False)
class Rule:
    """One rule. It is in force until `remove`, or until the end of the `with` block that it is used in."""

    action: Action
    operation: str | None
    path: str
    which: Which
    _faults: "Faults" = field(repr=False)
    seen: int = 0
    hits: int = 0

    def remove(self) -> None:
        """Fail no more by this rule."""
        self._faults.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def applies(self, request: Request) -> bool:
        """Whether the rule applies to a request, which is counted. The lock of the rules is held."""
        which = self.which
        # Only requests over HTTP have a path, and only rules about them.
        if bool(request.path) != bool(self.path) or not fnmatchcase(request.path, self.path):
            return False
        if self.operation not in (None, request.operation):
            return False
        if which.get("calling_ae", request.calling_ae) != request.calling_ae:
            return False
        if "when" in which and not which["when"](request):
            return False
        self.seen += 1
        if self.seen <= which.get("skip", 0) or self.hits >= which.get("times", self.hits + 1):
            return False
        self.hits += 1
        return True


class Faults:
    """The rules of one server; thread-safe.

    Operations are C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE, N-CREATE, N-SET, N-GET, N-ACTION and N-EVENT-REPORT. All
    methods take `times`, `skip`, `calling_ae` and `when` of `Which` too, and return the rule, which counts its `hits`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: tuple[Rule, ...] = ()

    def status(
        self, operation: str, status: int, *, comment: str = "", after_matches: int = 0, **which: Unpack[Which]
    ) -> Rule:
        """Answer an operation with a status and an Error Comment; a C-FIND after so many matches."""
        return self._add(Status(status, comment, after_matches), operation, which)

    def delay(self, operation: str, seconds: float, **which: Unpack[Which]) -> Rule:
        """Begin an operation so many seconds late; A-ASSOCIATE delays the answer to a proposal."""
        return self._add(Delay(seconds), operation, which)

    def abort(self, operation: str, *, source: int = 0, reason: int = 0, **which: Unpack[Which]) -> Rule:
        """Abort the association instead of an answer. Source 0 is the service user, 2 the service provider."""
        return self._add(Abort(source, reason), operation, which)

    def drop(
        self, operation: str | None = None, *, after_bytes: int | None = None, after_pdus: int | None = None,
        received: bool = False, reset: bool = False, **which: Unpack[Which],
    ) -> Rule:  # fmt: skip
        """Cut the connection without a word, with `reset` by a TCP reset.

        It is cut when an operation begins, or after so many bytes or PDUs were sent to the client from then on, or of
        its data set were `received`. Without an operation they are counted from the beginning of a connection, of
        which no AE title is known yet.
        """
        return self._add(Drop(after_bytes, after_pdus, received, reset), operation or "", which)

    def reject(self, *, result: int = 1, source: int = 1, reason: int = 1, **which: Unpack[Which]) -> Rule:
        """Reject associations. Result 1 is permanent, 2 transient; PS3.8 Table 9-21 has sources and reasons."""
        return self._add(Reject(result, source, reason), "A-ASSOCIATE", which)

    def counts(
        self, operation: str, *, completed: int = 0, failed: int = 0, warning: int = 0, remaining: int = 0,
        **which: Unpack[Which],
    ) -> Rule:  # fmt: skip
        """Have responses to C-GET or C-MOVE lie: these are added to the true numbers of sub-operations."""
        return self._add(Counts(completed, failed, warning, remaining), operation, which)

    def http_status(
        self, status: int, path: str = "*", *, method: str | None = None, body: str = "",
        headers: dict[str, str] | None = None, **which: Unpack[Which],
    ) -> Rule:  # fmt: skip
        """Answer HTTP requests with a status. `path` is a pattern such as `/dicom-web/studies*`."""
        return self._add(HTTPStatus(status, body, headers or {}), method, which, path)

    def http_delay(self, seconds: float, path: str = "*", *, method: str | None = None, **which: Unpack[Which]) -> Rule:
        """Answer HTTP requests so many seconds late."""
        return self._add(Delay(seconds), method, which, path)

    def http_cut(
        self, after_bytes: int = 0, path: str = "*", *, method: str | None = None, **which: Unpack[Which]
    ) -> Rule:
        """End the connection after so many bytes of the body of an HTTP answer."""
        return self._add(HTTPCut(after_bytes), method, which, path)

    def http_slow(
        self, bytes_per_second: int, path: str = "*", *, method: str | None = None, **which: Unpack[Which]
    ) -> Rule:
        """Send the bodies of HTTP answers with so many bytes a second. Raises ValueError for fewer than one."""
        if bytes_per_second < 1:
            raise ValueError("an answer is sent with one byte a second at least")
        return self._add(HTTPSlow(bytes_per_second), method, which, path)

    def remove(self, rule: Rule) -> None:
        """Take back one rule."""
        with self._lock:
            self._rules = tuple(each for each in self._rules if each is not rule)

    def clear(self) -> None:
        """Take back all rules."""
        with self._lock:
            self._rules = ()

    def take(self, request: Request, *kinds: type[_Kind]) -> list[_Kind]:
        """The actions of these kinds whose rules apply to a request, in the order in which the rules were made."""
        if not self._rules:
            return []
        with self._lock:
            return [rule.action for rule in self._rules if isinstance(rule.action, kinds) and rule.applies(request)]

    def _add(self, action: Action, operation: str | None, which: Which, path: str = "") -> Rule:
        rule = Rule(action, operation, path, which, self)
        with self._lock:
            self._rules = (*self._rules, rule)
        return rule
