"""The pool: how many associations there are at once, which ones are used again, and when idle ones end."""

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from servers import eventually

from pacs_server.errors import RemoteBusy, RemoteUnreachable
from pacs_server.net.acceptor import Rejected, Rejection
from pacs_server.net.association import Timeouts
from pacs_server.net.limits import Bucket
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import AssociationEnded, ConnectionLost, DeadlineExpired
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE

REMOTE = RemoteAE("DEST", "dest", 104, 1.0, 2.0, name="dest", max_associations=2)
CT, MR = (ProposedContext(1, f"1.2.840.10008.5.1.4.1.1.{n}", ("1.2.840.10008.1.2.1",)) for n in (2, 4))
BOTH = (CT, ProposedContext(3, MR.abstract_syntax, MR.transfer_syntaxes))


class Requestor:
    """Stands for the requestor; counts what is open, and opens what `fails` does not hold."""

    def __init__(self) -> None:
        self.opened = self.open_now = self.most = 0
        self.ends: list[str] = []
        self.fails: list[Exception] = []
        self._lock = threading.Lock()

    def open(self, remote: RemoteAE, contexts: Sequence[ProposedContext], roles: object) -> Any:
        with self._lock:
            if self.fails:
                raise self.fails.pop(0)
            self.opened += 1
            self.open_now += 1
            self.most = max(self.most, self.open_now)
            return SimpleNamespace(
                number=self.opened,
                calling_ae="PACS",
                timeouts=Timeouts(1.0, 1.0),
                dead=False,
                throttle=None,
                transport=SimpleNamespace(pause=lambda seconds: None),
                waiting=lambda: False,
                release=lambda: self.ends.append("released"),
            )

    def close(self, association: object, *, abort: bool) -> None:
        with self._lock:
            self.open_now -= 1
            if abort:
                self.ends.append("aborted")

    def kill(self) -> None:
        pass


@pytest.fixture
def requestor() -> Requestor:
    return Requestor()


@pytest.fixture
def pool(requestor: Requestor) -> Iterator[Pool]:
    made = Pool(requestor, idle_seconds=60.0, wait_seconds=0.2)  # type: ignore[arg-type]
    yield made
    made.stop()
    assert eventually(lambda: not [one for one in threading.enumerate() if one.name == "pool"])


def number_of(pool: Pool, contexts: Sequence[ProposedContext] = (CT,), remote: RemoteAE = REMOTE) -> int:
    """The number of the association over which something is sent now."""
    with pool.link(remote, contexts) as link:
        return link.exchange(lambda association: association.number)  # type: ignore[attr-defined, no-any-return]


def test_an_association_is_used_again(pool: Pool, requestor: Requestor) -> None:
    assert [number_of(pool) for _ in range(3)] == [1, 1, 1]
    assert requestor.ends == []


def test_one_that_offers_more_will_do_and_one_that_offers_less_will_not(pool: Pool) -> None:
    assert [number_of(pool, BOTH), number_of(pool, (MR,)), number_of(pool, (CT,))] == [1, 1, 1]
    assert [number_of(pool, (ProposedContext(1, "1.2.3", ("1.2",)),)), number_of(pool, BOTH)] == [2, 3]


def test_after_a_reload_a_new_one_is_opened(pool: Pool) -> None:
    moved = RemoteAE("DEST", "elsewhere", 104, 1.0, 2.0, name="dest")
    assert [number_of(pool), number_of(pool, remote=moved)] == [1, 2]


def test_none_is_idle_while_another_is_opened(pool: Pool, requestor: Requestor) -> None:
    assert [number_of(pool, (ProposedContext(1, f"1.2.{n}", ("1.2",)),)) for n in range(4)] == [1, 2, 3, 4]
    assert requestor.ends == ["released", "released", "released"]
    assert requestor.most == 1


def test_no_more_than_the_remote_may_have_and_then_busy(pool: Pool, requestor: Requestor) -> None:
    with pool.link(REMOTE, (CT,)) as one, pool.link(REMOTE, (CT,)) as two, pool.link(REMOTE, (CT,)) as three:
        one.exchange(lambda association: None)
        two.exchange(lambda association: None)
        with pytest.raises(RemoteBusy, match="all of its 2 associations are in use"):
            three.exchange(lambda association: None)
        one.end(abort=False)
        three.exchange(lambda association: None)
    assert requestor.most == 2


def test_what_could_not_be_opened_takes_no_place(pool: Pool, requestor: Requestor) -> None:
    # More often than the remote may have associations.
    requestor.fails = [ZeroDivisionError(), ConnectionLost("gone"), ZeroDivisionError(), ConnectionLost("gone")]
    for failure in list(requestor.fails):
        with pytest.raises(RemoteUnreachable if isinstance(failure, AssociationEnded) else ZeroDivisionError):
            number_of(pool)
    assert number_of(pool) == 1


def test_without_a_thread_an_idle_one_ends_when_the_next_one_is_kept(requestor: Requestor) -> None:
    pool, start = Pool(requestor, idle_seconds=0.01), threading.Thread.start  # type: ignore[arg-type]

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert number_of(pool) == 1
    assert threading.Thread.start is start
    assert number_of(pool) == 1
    assert eventually(lambda: requestor.ends == ["released"])
    pool.stop()


def test_twenty_threads_keep_within_the_limit(pool: Pool, requestor: Requestor) -> None:
    done: list[int] = []

    def work() -> None:
        for turn in range(10):
            with pool.link(REMOTE, (CT,) if turn % 2 else (MR,)) as link:
                link.exchange(lambda association: time.sleep(0.001))
            done.append(turn)

    pool._wait_seconds = 30.0
    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert len(done) == 200
    assert requestor.most == 2


def test_idle_ones_end_and_so_does_the_thread_that_ends_them(requestor: Requestor) -> None:
    pool = Pool(requestor, idle_seconds=0.05)  # type: ignore[arg-type]
    number_of(pool)
    assert eventually(lambda: requestor.open_now == 0)
    assert eventually(lambda: not [one for one in threading.enumerate() if one.name == "pool"])
    assert requestor.ends == ["released"]
    assert number_of(pool) == 2
    pool.stop()


def test_an_exception_aborts(pool: Pool, requestor: Requestor) -> None:
    def fail(association: object) -> None:
        raise ValueError("no way")

    with pytest.raises(ValueError, match="no way"), pool.link(REMOTE, (CT,)) as link:
        link.exchange(fail)
    assert requestor.ends == ["aborted"]
    assert number_of(pool) == 2


class Breaking:
    """An operation that breaks the associations of these numbers."""

    def __init__(self, numbers: Sequence[int], ended: AssociationEnded) -> None:
        self.numbers = numbers
        self.ended = ended

    def __call__(self, association: Any) -> int:
        if association.number in self.numbers:
            raise self.ended
        return int(association.number)


LOST = ConnectionLost("connection closed by the peer")


def test_an_idle_one_that_was_dead_costs_nothing(pool: Pool) -> None:
    number_of(pool)
    with pool.link(REMOTE, (CT,)) as link:
        assert link.exchange(Breaking([1], LOST)) == 2


def test_a_new_one_that_breaks_costs_the_exchange(pool: Pool, requestor: Requestor) -> None:
    with pool.link(REMOTE, (CT,)) as link:
        with pytest.raises(ConnectionLost):
            link.exchange(Breaking([1], LOST))
        assert link.exchange(Breaking([], LOST)) == 2
        with pytest.raises(ConnectionLost):
            link.exchange(Breaking([2], LOST))
    assert requestor.ends == ["aborted", "aborted"]


def test_a_silent_one_is_not_asked_twice(pool: Pool, requestor: Requestor) -> None:
    number_of(pool)
    with pool.link(REMOTE, (CT,)) as link, pytest.raises(DeadlineExpired):
        link.exchange(Breaking([1], DeadlineExpired("silent")))
    assert requestor.opened == 1


@pytest.mark.parametrize(
    ("ended", "others", "error"),
    [
        (Rejected(Rejection(2, 3, 2, "")), 0, RemoteBusy),
        (Rejected(Rejection(2, 3, 1, "")), 0, RemoteBusy),
        (Rejected(Rejection(1, 1, 7, "")), 1, RemoteUnreachable),
        (LOST, 1, RemoteUnreachable),
        (DeadlineExpired("silent"), 0, RemoteUnreachable),
        (DeadlineExpired("silent"), 1, RemoteBusy),
    ],
)
def test_what_cannot_be_opened(
    pool: Pool, requestor: Requestor, ended: AssociationEnded, others: int, error: type[Exception]
) -> None:
    with pool.link(REMOTE, (CT,)) as link:
        for _ in range(others):
            link.exchange(lambda association: None)
        requestor.fails = [ended]
        with pytest.raises(error, match="dest: "):
            number_of(pool, (MR,))
    # Its place is free again.
    with pool.link(REMOTE, (CT,)) as one, pool.link(REMOTE, (MR,)) as two:
        one.exchange(lambda association: None)
        two.exchange(lambda association: None)


def test_an_association_for_one_operation_is_new_and_counts(pool: Pool, requestor: Requestor) -> None:
    number_of(pool)
    with (
        pool.association(REMOTE, (CT,)),
        pool.association(REMOTE, (CT,)),
        pytest.raises(RemoteBusy),
        pool.association(REMOTE, (CT,), wait=0.0),
    ):
        pass
    assert requestor.most == 2
    with pytest.raises(RemoteUnreachable, match="closed by the peer"), pool.association(REMOTE, (CT,)):
        raise LOST


def test_after_the_stop_nothing_is_opened(pool: Pool) -> None:
    number_of(pool)
    pool.stop()
    with pytest.raises(RemoteUnreachable, match="shuts down"):
        number_of(pool)


def test_a_bucket_holds_all_together_to_the_rate() -> None:
    now = [0.0]
    bucket = Bucket(1000, clock=lambda: now[0])
    assert [bucket.take(500), bucket.take(500), bucket.take(500)] == [0.0, 0.0, 0.5]
    now[0] = 1.0
    assert bucket.take(1000) == 0.5
