"""Notifications of PostgreSQL: what other processes commit wakes the consumers of the feed in this one.

Imported only where PostgreSQL is used, since its driver is an extra.
"""

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

from psycopg import Error as DriverError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from pacs_server.errors import IndexUnavailable

log = logging.getLogger(__name__)

# How long to wait before a lost connection is made anew, in seconds.
_PAUSE: Final = 1.0


class NotificationListener:
    """A thread with a connection of its own that calls `heard` when another transaction has notified the channel.

    A lost connection is made anew, and `heard` is called then, because notifications may have been missed.
    """

    def __init__(self, engine: Engine, channel: str, heard: Callable[[], None]) -> None:
        self._engine = engine
        self._channel = channel
        self._heard = heard
        self._stopping = threading.Event()
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close its connection."""
        self._stopping.set()
        self._waker.close()
        self._thread.join()
        self._woken.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (DriverError, SQLAlchemyError, IndexUnavailable) as error:
                # Consumers look again after a while without being woken, so nothing is lost meanwhile.
                log.warning("notifications of PostgreSQL are lost for now", extra={"reason": type(error).__name__})
                self._stopping.wait(_PAUSE)

    def _listen(self) -> None:
        """Listen until `stop` is called; raises when the connection is lost."""
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        # Out of the pool: nobody else may get a connection that listens.
        pooled.detach()
        try:
            connection.autocommit = True
            connection.execute(f"LISTEN {self._channel}")
            self._heard()
            with selectors.DefaultSelector() as selector:
                selector.register(connection.pgconn.socket, selectors.EVENT_READ)
                selector.register(self._woken, selectors.EVENT_READ)
                while not self._stopping.is_set():
                    selector.select()
                    connection.pgconn.consume_input()
                    if connection.pgconn.notifies() is not None:
                        while connection.pgconn.notifies() is not None:
                            pass
                        self._heard()
        finally:
            connection.close()
