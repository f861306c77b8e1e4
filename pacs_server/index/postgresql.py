"""The engine for PostgreSQL: it sets up connections and limits every wait.

Imported only where PostgreSQL is used, since its driver is an extra.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

# How long the server may take for one answer, in seconds. TCP keepalive detects a lost machine, but not a server
# that hangs.
ANSWER_SECONDS: Final = 60.0
_OPTIONS: Final = {
    "connect_timeout": "10",
    # Both ends notice within half a minute that the network drops all packets.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
_SERVER_SIDE: Final = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4 -c tcp_user_timeout=30000"
)
# Queries read all matches. A plan for the first rows only would scan the whole table in their order.
_PLANNER: Final = "-c cursor_tuple_fraction=1.0"
# Settings that also wait for a standby are left as they are.
_SYNCHRONOUS: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed when an answer takes longer than `answer_seconds`; None waits for ever."""

    answer_seconds: float | None = ANSWER_SECONDS

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """See psycopg; raises psycopg.OperationalError when there is no answer in time."""
        seconds = self.answer_seconds if timeout is None else timeout
        try:
            return super().wait(gen, interval, seconds)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                # The connection is unusable, even for a rollback.
                self.close()
            raise


def postgresql_engine(url: URL, *, lock_wait: int, pooled: bool = True) -> Engine:
    """An engine whose writers wait up to `lock_wait` seconds for each other.

    If it is not `pooled`, it uses no connection twice.
    """
    defaults = _OPTIONS | {"options": f"-c lock_timeout={lock_wait}s {_SERVER_SIDE} {_PLANNER}"}
    url = url.update_query_dict({name: value for name, value in defaults.items() if name not in url.query})
    # The number of associations limits the connections, not the pool. A query that streams its answer to a slow peer
    # holds a connection for long, and must not prevent others from storing.
    pool: dict[str, Any] = {"pool_size": 16, "max_overflow": -1} if pooled else {"poolclass": NullPool}
    engine = create_engine(url, pool_pre_ping=pooled, hide_parameters=True, **pool)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> _Connection:
        connection = _Connection.connect(*args, **options)
        try:
            # If it is off, for a user or for the server, a crash of PostgreSQL loses acknowledged commits.
            connection.execute(_SYNCHRONOUS)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    return engine


@contextmanager
def patient(connection: Connection) -> Iterator[None]:
    """Wait for each answer on this connection for as long as it takes."""
    driver: Any = connection.connection.driver_connection
    driver.answer_seconds = None
    try:
        yield
    finally:
        # Back to the default of the class.
        del driver.answer_seconds
