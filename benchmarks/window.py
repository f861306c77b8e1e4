"""What the asynchronous operations window gains a sender that is far away: C-STORE over a link with latency.

    python -m benchmarks.window [--round-trip 50] [--windows 1 4 32] [--count 200]

A proxy on this machine passes on every byte half of the round trip later, and limits no bandwidth. Prints Markdown.
"""

import argparse
import itertools
import queue
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.client import Address, Association
from benchmarks.instances import CT_IMAGE_STORAGE, ct_template, store_requests
from benchmarks.peers import PEERS, start
from benchmarks.report import machine
from benchmarks.rows import LARGE, SMALL
from benchmarks.server_process import free_port

_CHUNK = 256 * 1024
# Each measurement has a study of its own, and no instance is sent twice.
_SOPS_EACH = 100_000


class SlowLink:
    """Passes connections on to `target`, every byte `delay` seconds later; `port` is where it listens."""

    def __init__(self, target: Address, delay: float) -> None:
        self._target = (target.host, target.port)
        self._delay = delay
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self._sockets = [listener]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._serve, self._sockets[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                    self._start(self._take, one, on_the_way)
                    self._start(_deliver, other, on_the_way)

    def _take(self, sock: socket.socket, on_the_way: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
        data = b"?"
        while data:
            data = b""
            with suppress(OSError):
                data = sock.recv(_CHUNK)
            on_the_way.put((time.monotonic() + self._delay, data))


def _deliver(sock: socket.socket, on_the_way: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
    """Send what is on the way when it is due, and close at its end."""
    with suppress(OSError):
        while True:
            due, data = on_the_way.get()
            time.sleep(max(due - time.monotonic(), 0.0))
            if not data:
                break
            sock.sendall(data)
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def rate(address: Address, side: int, window: int, count: int, study: int) -> tuple[int, float]:
    """Store `count` images of a study; returns the window that was granted, and instances a second."""
    with Association(address, [CT_IMAGE_STORAGE], window=window) as association:
        first = study * _SOPS_EACH
        framing = association.framing(CT_IMAGE_STORAGE)
        requests = list(store_requests(ct_template(side), study, range(first, first + count), framing))
        began = time.perf_counter()
        association.store_ahead(requests)
        return association.window, count / (time.perf_counter() - began)


def table(address: Address, round_trip: float, windows: Sequence[int], count: int) -> str:
    """Instances a second by size and window, over a link with `round_trip` seconds and without it."""
    far = f"with {1000 * round_trip:g} ms"
    lines = [
        f"| window | granted | 10 KB {far} | 512 KB {far} | 10 KB without | 512 KB without |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    studies = itertools.count(1)
    with SlowLink(address, round_trip / 2) as link:
        for window in windows:
            cells = []
            for where in (replace(address, port=link.port), address):
                for side in (SMALL, LARGE):
                    # Where an image takes a round trip at least, fewer of them tell as much.
                    few = max(count * min(window, 4) // 4, 2)
                    granted, found = rate(where, side, window, few, next(studies))
                    cells.append(f"{found:.0f}")
            lines.append(f"| {window} | {granted} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure this server and print what was found."""
    parser = argparse.ArgumentParser(description="What the asynchronous operations window gains over latency.")
    parser.add_argument("--round-trip", type=float, default=50.0, help="milliseconds (default: 50)")
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--count", type=int, default=200, help="images in each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pacs-window-") as name, ExitStack() as stack:
        print(f"{machine(Path(name))}.\n", flush=True)
        running, left_out = start(stack, PEERS[:1], Path(name), Address("NOBODY", free_port()))
        if left_out:
            sys.exit("; ".join(left_out))
        print(table(running[0].address, options.round_trip / 1000, options.windows, options.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
