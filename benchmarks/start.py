"""How long the server takes from its start until it listens, with so many instances in the index.

Rows and empty study folders are written directly: python -m benchmarks.start --instances 1000000 [--url postgresql://...]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.filling import PER_STUDY, fill, study
from pacs_server.index.database import Database

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
        studies = range(1, options.instances // PER_STUDY + 1)
        with closing(Database(url, fsync=False)) as database:
            database.migrate()
            fill(database, studies)
        for number in studies:
            (directory / "archive" / study(number).uid).mkdir(parents=True)
        (directory / "archive" / study(1).uid / "1.dcm").touch()
        for _ in range(STARTS):
            print(f"{_start(directory, url):.2f} s", flush=True)
    return 0


def _start(directory: Path, url: str) -> float:
    settings = {
        "STORAGE__DIRECTORY": directory / "archive",
        "STORAGE__MIN_FREE_SPACE": 0,
        "DATABASE__URL": url,
        "AUDIT__DIRECTORY": directory / "audit",
        "SERVER__PORT": 0,
        "MONITORING__METRICS_PORT": 0,
        "WEB__PORT": 0,
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
