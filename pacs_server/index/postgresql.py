"""The engine for PostgreSQL: how its connections are set up, and that none waits for ever.

Imported only where PostgreSQL is used, since its driver is an extra.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import URL, Connection, Engine, create_engine, event

# How long the server may take for one answer, in seconds. Keepalive finds a machine that is gone, not a server that
# hangs.
ANSWER_SECONDS: Final = 60.0
_OPTIONS: Final = {
    "connect_timeout": "10",
    # A network that swallows everything is noticed within half a minute, at both ends.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
_SERVER_SIDE: Final = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4 -c tcp_user_timeout=30000"
)
# All matches are read: planned for the first ones alone, a query would go through the whole table in their order.
_PLANNER: Final = "-c cursor_tuple_fraction=1.0"
# What waits for a standby too stays as it is.
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
                # Nothing else can be asked on it, not even a rollback.
                self.close()
            raise


def postgresql_engine(url: URL, *, lock_wait: int) -> Engine:
    """An engine whose writers wait up to `lock_wait` seconds for each other."""
    defaults = _OPTIONS | {"options": f"-c lock_timeout={lock_wait}s {_SERVER_SIDE} {_PLANNER}"}
    url = url.update_query_dict({name: value for name, value in defaults.items() if name not in url.query})
    # The number of associations bounds the connections, not the pool: whoever streams the answer to a query
    # to a slow peer keeps one for long, and must not keep the others from storing.
    engine = create_engine(url, pool_size=16, max_overflow=-1, pool_pre_ping=True, hide_parameters=True)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> _Connection:
        connection = _Connection.connect(*args, **options)
        try:
            # Off, for a user or a whole server, a crash of PostgreSQL takes the last commits, whose senders were told.
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
        # As the class has it.
        del driver.answer_seconds
