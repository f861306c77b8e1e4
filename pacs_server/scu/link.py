"""Links: associations that this server requests, each opened when it is needed and opened again after a break."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from pacs_server.net.acceptor import Terms
from pacs_server.net.association import Association
from pacs_server.net.limits import Throttle
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import AssociationEnded, ConnectionLost, DeadlineExpired, Transport
from pacs_server.scu.connect import connect
from pacs_server.scu.remote import RemoteAE

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Decides after a break whether another association is worth a try: told why the last one ended, and how many
# exchanges succeeded on it.
GiveUp = Callable[[AssociationEnded, int], bool]


def without_success(ended: AssociationEnded, exchanges: int) -> bool:
    """Give a remote AE up when no exchange succeeded on the association that broke."""
    return exchanges == 0


def after_silence(ended: AssociationEnded, exchanges: int) -> bool:
    """Give a remote AE up when it did not answer in time; any other break may be the fault of one item."""
    return isinstance(ended, DeadlineExpired)


class Requestor:
    """Requests associations on behalf of this server, and can end all of them at shutdown. Thread-safe."""

    def __init__(
        self,
        remotes: Callable[[str], RemoteAE | None],
        ae_title: Callable[[], str],
        terms: Callable[[], Terms],
    ) -> None:
        """`remotes` finds a remote AE by its title. All three are asked each time, because a reload may change them."""
        self.remote = remotes
        self.ae_title = ae_title
        self._terms = terms
        self._open: set[Association] = set()
        # The connections to remotes that have not answered the proposal yet.
        self._opening: set[Transport] = set()
        self._killed = False
        self._lock = threading.Lock()

    def open(
        self,
        remote: RemoteAE,
        contexts: Sequence[ProposedContext],
        roles: Mapping[str, tuple[bool, bool]] | None = None,
    ) -> Association:
        """Open an association, which has to be given to `close` in the end. Raises AssociationEnded."""
        if self._killed:
            raise ConnectionLost("the server shuts down")
        waiting = list[Transport]()

        def opening(transport: Transport) -> None:
            waiting.append(transport)
            with self._lock:
                self._opening.add(transport)
                if self._killed:
                    transport.kill()

        try:
            association = connect(remote, self.ae_title(), contexts, self._terms(), roles, opening=opening)
        finally:
            with self._lock:
                self._opening.difference_update(waiting)
        with self._lock:
            self._open.add(association)
            if self._killed:
                association.transport.kill()
        return association

    def close(self, association: Association, *, abort: bool) -> None:
        """Close an association, with an A-ABORT first if the remote AE does not expect the end."""
        if abort:
            association.abort()
        association.transport.close()
        with self._lock:
            self._open.discard(association)

    def kill(self) -> None:
        """End all associations at once, also those that are being opened, and refuse to open others.

        Whoever waits on one gets ConnectionLost.
        """
        with self._lock:
            self._killed = True
            for transport in (*self._opening, *(association.transport for association in self._open)):
                transport.kill()


class Link:
    """A way to one remote AE for a queue of items, for the thread that made it.

    Each exchange sends one item. The association is opened for the first exchange; an association that
    breaks costs the exchange that was on it, and the next exchange opens another. `given_up` becomes True
    when another one is not worth a try: the remote AE could not be reached, or `give_up` decided so.
    Leaving the `with` block releases the association, or aborts it after an exception.
    """

    def __init__(
        self,
        requestor: Requestor,
        remote: RemoteAE,
        contexts: Sequence[ProposedContext],
        *,
        roles: Mapping[str, tuple[bool, bool]] | None = None,
        give_up: GiveUp = without_success,
        throttle: Throttle | None = None,
        abort_unreleased: bool = False,
    ) -> None:
        """`roles` maps SOP Class UIDs to the (SCU, SCP) roles to propose; `throttle` limits the rate of data sent.

        `abort_unreleased` sends an A-ABORT when the remote AE does not answer the release.
        """
        self.given_up = False
        self._requestor = requestor
        self._remote = remote
        self._contexts = contexts
        self._roles = roles
        self._give_up = give_up
        self._throttle = throttle
        self._abort_unreleased = abort_unreleased
        self._association: Association | None = None
        self._exchanges = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        association, self._association = self._association, None
        if association is None:
            return
        abort = error is not None
        try:
            if not abort:
                association.release()
        except AssociationEnded as ended:
            abort = self._abort_unreleased
            # Every item has its outcome by now; the way the association ends changes none of them.
            log.info("destination did not release", extra={"reason": ended.how})
        finally:
            self._requestor.close(association, abort=abort)

    def exchange(
        self, operation: Callable[Concatenate[Association, P], T], *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Run `operation(association, *arguments, **options)` and return its result.

        Raises AssociationEnded if the association could not be opened or broke: this item has failed, and
        if `given_up` is set the remaining ones have as well. Any other exception leaves the association open.
        """
        association = self._association
        if association is None:
            association = self._opened()
        try:
            result = operation(association, *arguments, **options)
        except AssociationEnded as ended:
            self.given_up = self._give_up(ended, self._exchanges)
            self._association = None
            self._requestor.close(association, abort=True)
            raise
        self._exchanges += 1
        return result

    def _opened(self) -> Association:
        try:
            association = self._requestor.open(self._remote, self._contexts, self._roles)
        except AssociationEnded:
            self.given_up = True
            raise
        association.throttle = self._throttle
        self._association, self._exchanges = association, 0
        return association
