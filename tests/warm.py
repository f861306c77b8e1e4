"""Processes of `pacs-server` that need not import anything: they are forked from one that has imported everything.

A new process takes a second of processor time until it begins; one of these takes some milliseconds. It is a process
of its own all the same: signals, crashes, descriptors, exit codes and output are its own.
"""

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# As long as its arguments and its environment may be together, in bytes.
_MOST = 1 << 17


class WarmProcess:
    """As much of `subprocess.Popen` as the tests use, for `pacs-server` with `arguments`; its output is text."""

    def __init__(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: int, stderr: int
    ) -> None:
        """Start it; its output goes to these descriptors, with `subprocess.PIPE` to a pipe that `stdout` reads."""
        self.args = ["pacs-server", *arguments]
        self.returncode: int | None = None
        order = {"arguments": self.args, "cwd": str(cwd), "environment": dict(env)}
        self._lock, self._said = threading.Lock(), b""
        with contextlib.ExitStack() as given:
            self.stdout, out = _pipe_for(stdout, given)
            ours, theirs = socket.socketpair()
            given.enter_context(theirs)
            self._report = ours.detach()
            _control().sendmsg(
                [json.dumps(order).encode()],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _packed([out, stderr, theirs.fileno()]))],
            )
        self.pid = int(self._line())

    def __del__(self) -> None:
        os.close(self._report)

    def _line(self) -> bytes:
        """The next line of what is told of it: its number, then its exit code."""
        while b"\n" not in self._said:
            more = os.read(self._report, 100)
            assert more, "the process that starts others has ended"
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        if self.returncode is None and not self._said:
            select.select([self._report], [], [], timeout)
        with self._lock:
            if self.returncode is None:
                if not self._said and not select.select([self._report], [], [], 0)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.returncode = int(self._line())
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def _pipe_for(target: int, given: contextlib.ExitStack) -> tuple[IO[str] | None, int]:
    """Where this process reads what comes, if it does, and the descriptor to write to, closed with `given`."""
    if target != subprocess.PIPE:
        return None, target
    reads, writes = os.pipe()
    given.callback(os.close, writes)
    return open(reads, encoding="utf-8"), writes


def _packed(descriptors: list[int]) -> bytes:
    return b"".join(one.to_bytes(4, sys.byteorder) for one in descriptors)


_started: dict[int, socket.socket] = {}


def _control() -> socket.socket:
    """The socket of the process that starts others, one for each process of the tests; it ends with them."""
    if os.getpid() not in _started:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            kept = {name: value for name, value in os.environ.items() if not name.startswith("PACS_SERVER_")}
            subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=kept | {"PYTHONWARNINGS": "default", "PYTHONFAULTHANDLER": "1", "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            ).returncode = 0  # nobody waits for it
        atexit.register(ours.close)
        _started[os.getpid()] = ours
    return _started[os.getpid()]


# ------------------------------------------------------------------------------------ in the process that starts others


def _import_everything() -> None:
    import psycopg  # noqa: F401

    import pacs_server.app.server
    import pacs_server.cli.main  # noqa: F401

    gc.collect()
    gc.freeze()


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each order, and tell how each child ended; returns the order, in the child."""
    woken, wakes = socket.socketpair()
    for each in (woken, wakes):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    reports: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            _tell_of_the_dead(reports)
        if control in ready:
            message, descriptors, _, _ = socket.recv_fds(control, _MOST, 3)
            if not message:
                os._exit(0)
            child = os.fork()
            if child == 0:
                for each in (control, woken, wakes):
                    each.detach()
                return _became(json.loads(message), descriptors)
            os.close(descriptors[0])
            os.close(descriptors[1])
            reports[child] = descriptors[2]
            os.write(descriptors[2], f"{child}\n".encode())


def _tell_of_the_dead(reports: dict[int, int]) -> None:
    while reports:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        report = reports.pop(child)
        with contextlib.suppress(OSError):
            os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(report)


def _became(order: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Make this child what a new process would be."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[1], 2)
    os.closerange(3, 1 << 16)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[:] = order["arguments"]
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc] # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    return order


if __name__ == "__main__":
    _import_everything()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from pacs_server.cli.main import main

    main()
