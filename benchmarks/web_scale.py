"""What searches over HTTP cost with a large index, on SQLite or PostgreSQL.

python -m benchmarks.web_scale [--instances N] [--of-each N] [--database postgresql://...]
fills an empty index with made-up studies, starts a server on it, asks it one request at a time over one connection,
and prints a table: medians in milliseconds, and the matches of one answer.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from benchmarks.filling import PER_STUDY, STUDIES_PER_PATIENT, fill, study
from benchmarks.report import machine
from benchmarks.web_client import WebClient
from benchmarks.web_peers import WebPeer
from pacs_server.index.database import Database

_ROUNDS: Final = 5
_DICOMWEB: Final = "/dicom-web"
# A row of the list of studies.
_ROW: Final = b'<th scope="row"'
# The first one of a round is not timed.
_REQUESTS: Final = 21


def _name(number: int) -> str:
    return quote(study(number).patient_name.partition("=")[0])


def _rows(studies: int) -> dict[str, Callable[[int], str]]:
    """The path of each row, for a number of a study."""
    return {
        "the first 100 studies": lambda number: f"{_DICOMWEB}/studies?limit=100",
        "100 studies, behind half of them": lambda number: f"{_DICOMWEB}/studies?limit=100&offset={studies // 2}",
        "100 instances, behind half of them": lambda number: (
            f"{_DICOMWEB}/instances?limit=100&offset={studies * PER_STUDY // 2}"
        ),
        "studies by Patient ID": lambda number: f"{_DICOMWEB}/studies?PatientID={study(number).patient_id}",
        "studies by name": lambda number: f"{_DICOMWEB}/studies?PatientName={_name(number)}",
        "studies by the beginning of a name": lambda number: (
            f"{_DICOMWEB}/studies?PatientName={_name(number)[:6]}*&limit=100"
        ),
        "studies by a part of a name": lambda number: (
            f"{_DICOMWEB}/studies?PatientName=*{_name(number)[2:6]}*&limit=100"
        ),
        "studies of ten days": lambda number: (
            f"{_DICOMWEB}/studies?StudyDate={study(number).date}-{_later(number)}&limit=100"
        ),
        "a study by UID": lambda number: f"{_DICOMWEB}/studies?StudyInstanceUID={study(number).uid}",
        "the series of a study": lambda number: f"{_DICOMWEB}/studies/{study(number).uid}/series",
        "the 100 instances of a study": lambda number: f"{_DICOMWEB}/studies/{study(number).uid}/instances",
    }


def _pages() -> dict[str, Callable[[int], str]]:
    """The path of each row that is a web page, for a number of a study."""
    return {
        "page: the list of studies": lambda number: "/studies",
        "page: studies with a word": lambda number: f"/studies?q={_name(number)[:6]}",
        "page: studies by a Patient ID": lambda number: f"/studies?q={study(number).patient_id}",
        "page: CT studies by name": lambda number: "/studies?modality=CT&sort=name",
        "page: CT studies of a year by modality": lambda number: (
            f"/studies?modality=CT&from={study(number).date[:4]}-01-01&to={study(number).date[:4]}-12-31&sort=modality"
        ),
        "page: studies by number of images": lambda number: "/studies?sort=images&dir=desc",
        "page: studies by labels": lambda number: "/studies?sort=labels&dir=asc",
        "page: studies with a frequent word, by name": lambda number: "/studies?q=schu&sort=name&dir=asc",
        "page: a study": lambda number: f"/studies/{study(number).uid}",
    }


def _later(number: int) -> str:
    text = study(number).date
    return f"{text[:6]}{min(int(text[6:]) + 9, 28):02}" if int(text[6:]) <= 28 else text


class _Peer(WebPeer):
    """The server on a database that is filled already."""

    def __init__(self, directory: Path, database: dict[str, Any]) -> None:
        super().__init__("pacs-server", directory)
        self._database = database

    def _of_ours(self) -> dict[str, object]:
        assert self.cwd is not None
        # The instances have no files, which nobody should look for meanwhile. One there has to be.
        folder = self.cwd / "archive" / study(1).uid
        folder.mkdir(parents=True)
        (folder / "1.dcm").touch()
        storage = {"directory": str(self.cwd / "archive"), "scrub_rate": None}
        return super()._of_ours() | {"database": self._database, "storage": storage}


def main() -> int:
    """Measure as the command line says; returns the exit code."""
    options = _options()
    studies = options.instances // options.of_each
    with tempfile.TemporaryDirectory(prefix="pacs-web-scale-", dir=options.directory) as name:
        about, file = machine(Path(name)), Path(name) / "pacs.db"
        with closing(Database(options.database or f"sqlite:///{file}", fsync=False)) as database:
            database.migrate()
            fill(database, range(1, studies + 1), instances=options.of_each, marked=True)
        where = {"url": options.database} if options.database else {"path": str(file)}
        with _Peer(Path(name), where) as peer:
            results = measure(peer.web_port, studies)
    kind = "PostgreSQL" if options.database else "SQLite"
    print(f"{about}; {kind}; {studies:,} studies, {options.instances:,} instances.\n")
    print("| | ms | matches |\n|---|---:|---:|")
    for title, (milliseconds, matches) in results.items():
        print(f"| {title} | {milliseconds:.1f} | {matches} |")
    return 0


def measure(port: int, studies: int) -> dict[str, tuple[float, int]]:
    """The median of the milliseconds of each row, and the matches of its last answer.

    All rows have their turn in each round, so that what else the machine does hits all of them.
    """
    pages = _pages()
    rows = _rows(studies) | pages
    taken: dict[str, list[float]] = {title: [] for title in rows}
    matches = dict.fromkeys(rows, 0)
    with WebClient(port) as client:
        for number in range(_ROUNDS * _REQUESTS):
            first = number % _REQUESTS == 0
            for title, path in rows.items():
                asked = path(1 + number * 37 % studies)
                started = time.perf_counter()
                reply = client.get(asked, keep=first)
                if reply.status != 200:
                    raise RuntimeError(f"{asked} is answered with {reply.status}")
                if first:
                    matches[title] = reply.body.count(_ROW) if title in pages else len(json.loads(reply.body))
                else:
                    taken[title].append(time.perf_counter() - started)
    return {title: (1000 * statistics.median(taken[title]), matches[title]) for title in rows}


def _size(text: str) -> int:
    size, whole = int(text), PER_STUDY * STUDIES_PER_PATIENT
    if size < whole or size % whole:
        raise argparse.ArgumentTypeError(f"a multiple of {whole}")
    return size


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=_size, default=100_000, metavar="N", help="how many (default: 100000)")
    parser.add_argument(
        "--of-each", type=int, default=PER_STUDY, metavar="N", help=f"how many of each study (default: {PER_STUDY})"
    )
    parser.add_argument("--database", metavar="URL", help="an empty PostgreSQL database (default: SQLite)")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="keep files below DIR while it runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
