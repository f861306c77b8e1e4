"""How many background tasks a second the outbox takes through: added, claimed ten at a time, and done.

    python -m benchmarks.tasks [--tasks N] [--rounds N] [URL...]

Without URL: a SQLite file in a temporary directory. The databases take turns, so that all of them meet the same load.
"""

import argparse
import tempfile
import time
from pathlib import Path

from pacs_server.index.database import Database
from pacs_server.index.task_overview import TaskOverview
from pacs_server.index.task_values import NewTask
from pacs_server.index.tasks import TaskIndex, Wanted
from pacs_server.services.tasks import TaskService

_KIND = "benchmark"
_WANTED = Wanted({_KIND: 10})


def measure(service: TaskService, count: int) -> dict[str, float]:
    """Tasks a second, added and run, each committed on its own."""
    started = time.perf_counter()
    for number in range(count):
        service.add(NewTask(_KIND, "benchmark", f"target {number % 8}", {"study": f"1.2.{number}"}))
    added = time.perf_counter()
    done = 0
    while tasks := service.claim(_WANTED):
        done += sum(service.done(task) for task in tasks)
    ended = time.perf_counter()
    assert done == count
    return {"added": count / (added - started), "run": count / (ended - added)}


def main() -> None:
    """Print a line for each database and round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", metavar="URL", nargs="*")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        services = {}
        for url in arguments.urls or [f"sqlite:///{Path(directory, 'tasks.db')}"]:
            database = Database(url)
            database.migrate()
            services[database.url_without_password] = TaskService(TaskIndex(database), TaskOverview(database), {})
        for number in range(arguments.rounds):
            for url, service in services.items():
                rates = ", ".join(f"{name} {rate:.0f}/s" for name, rate in measure(service, arguments.tasks).items())
                print(f"round {number + 1}: {rates}  {url}")


if __name__ == "__main__":
    main()
