"""How long the server takes from its start until it listens, with so many instances in the index.

Rows and empty study folders are written directly: python -m benchmarks.start --instances 1000000 [--url postgresql://...]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import Connection, Integer, Table, cast, func, insert, literal, select
from sqlalchemy.types import DateTime

from pacs_server.index import models
from pacs_server.index.database import Database

PER_STUDY = 100
STARTS = 5


def main() -> int:
    """Fill the database, start the server a few times and print the seconds of each start."""
    parser = argparse.ArgumentParser(description="Seconds from start to listening.")
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty PostgreSQL database (default: SQLite)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pacs-start-") as name:
        directory = Path(name)
        url = options.url or f"sqlite:///{directory}/pacs.db"
        _fill(url, options.instances)
        for study in range(1, options.instances // PER_STUDY + 1):
            (directory / "archive" / f"1.2.{study}").mkdir(parents=True)
        (directory / "archive" / "1.2.1" / "1.dcm").touch()
        for _ in range(STARTS):
            print(f"{_start(directory, url):.2f} s", flush=True)
    return 0


def _fill(url: str, instances: int) -> None:
    database = Database(url, fsync=False)
    database.migrate()
    studies = instances // PER_STUDY
    with database.begin() as connection:
        for table, rows in ((models.patient, studies), (models.study, studies), (models.series, studies)):
            _insert(connection, table, rows, studies)
        _insert(connection, models.instance, instances, studies)
    database.close()


def _insert(connection: Connection, table: Table, rows: int, studies: int) -> None:
    """Insert rows numbered from 1; what tells them apart is made of the number, the rest is empty or 0."""
    numbers = select(literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < rows))
    n = numbers.c.n
    name = literal("1.2.").concat(cast(n, models.patient.c.patient_id.type))
    values = {}
    for column in table.columns:
        if column.nullable:
            continue
        if column.primary_key:
            values[column.name] = n
        elif column.foreign_keys:
            values[column.name] = (n - 1) % studies + 1
        elif column.name in ("patient_id", "path") or column.name.endswith("instance_uid"):
            values[column.name] = name
        elif column.name.startswith("number_of_"):
            values[column.name] = literal(PER_STUDY if column.name.endswith("instances") else 1)
        elif isinstance(column.type, DateTime):
            values[column.name] = func.current_timestamp()
        else:
            values[column.name] = literal(0 if isinstance(column.type, Integer) else "", column.type)
    connection.execute(insert(table).from_select(list(values), select(*values.values()).select_from(numbers)))


def _start(directory: Path, url: str) -> float:
    settings = {
        "STORAGE__DIRECTORY": directory / "archive",
        "STORAGE__MIN_FREE_SPACE": 0,
        "DATABASE__URL": url,
        "AUDIT__DIRECTORY": directory / "audit",
        "SERVER__PORT": 0,
        "MONITORING__METRICS_PORT": 0,
    }
    environment = os.environ | {f"PACS_SERVER__{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "pacs_server"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.terminate()
        process.communicate(timeout=60)
    if "listening" not in line:
        raise SystemExit(f"the server did not start: {line!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
