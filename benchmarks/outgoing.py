"""Forwarding a study over one association: this server, its own C-MOVE, and Orthanc, in turns.

    python -m benchmarks.outgoing [--rounds 7] [--count 100] [--sizes 64 512]

Each way has a destination of its own, which takes everything and keeps nothing. The clock runs until the last instance
has arrived; the first round of each way is not counted. Prints Markdown: medians in instances a second.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import client
from benchmarks.client import Address, Association
from benchmarks.instances import retrieve_template, study_uid
from benchmarks.jobs import StoreJob
from benchmarks.receiver import Receiver
from benchmarks.report import machine
from benchmarks.rows import settle
from benchmarks.server_process import find
from benchmarks.web_client import WebClient
from benchmarks.web_peers import WebPeer
from benchmarks.wire import ClientError
from pacs_server.net.message import CommandField

_ARRIVED_SECONDS: Final = 60.0
FORWARD, MOVE, ORTHANC = "pacs-server, forward", "pacs-server, C-MOVE", "Orthanc, store"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to send a study by its number; `settled` returns when what was sent before is over."""

    send: Callable[[int], None]
    receiver: Receiver
    settled: Callable[[], None] = settle


class Source(WebPeer):
    """A server that sends, and knows the destinations."""

    def __init__(self, key: str, directory: Path, destinations: Sequence[Address]) -> None:
        super().__init__(key, directory)
        self._destinations = destinations

    def _of_ours(self) -> dict[str, object]:
        remotes = [
            {"ae_title": each.ae_title, "host": each.host, "port": each.port, "max_associations": 1}
            for each in self._destinations
        ]
        return super()._of_ours() | {"remote_aes": remotes}

    def _of_orthanc(self) -> dict[str, object]:
        modalities = {each.ae_title: [each.ae_title, each.host, each.port] for each in self._destinations}
        others = super()._of_orthanc() | {"Plugins": []}
        return others | {"DicomModalities": modalities}


def main() -> int:
    """Measure and print the table; returns the exit code."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="pacs-bench-", dir=options.directory) as name, ExitStack() as stack:
        print(f"{machine(Path(name))}.\n", flush=True)
        receivers = [stack.enter_context(Receiver(f"DEST{number}")) for number in range(3)]
        there = [each.address for each in receivers]
        ours = stack.enter_context(Source("pacs-server", Path(name), there[:2]))
        ways = {
            FORWARD: Way(lambda study: _forward(ours, study, there[0]), receivers[0], lambda: _noted(ours)),
            MOVE: Way(lambda study: _move(ours, study, there[1]), receivers[1]),
        }
        sources = [ours]
        if find("Orthanc") is not None:
            orthanc = stack.enter_context(Source("orthanc", Path(name), there[2:]))
            ways[ORTHANC] = Way(lambda study: _store_of_orthanc(orthanc, study, there[2]), receivers[2])
            sources.append(orthanc)
        for number, side in enumerate(options.sizes, 1):
            for source in sources:
                StoreJob(source.address, side, number, range(number * 10**6, number * 10**6 + options.count), 60).run()
        print(table(options, ways))
    return 0


def table(options: argparse.Namespace, ways: Mapping[str, Way]) -> str:
    """Instances a second of each way and size of images, in all, and from the first to the last one."""
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {
        (way, side): [] for way in ways for side in options.sizes
    }
    for number, side in enumerate(options.sizes, 1):
        for turn in range(options.rounds + 1):
            for way in random.Random(turn).sample(sorted(ways), len(ways)):
                ways[way].settled()
                first, last = seconds(ways[way], number, options.count)
                if turn:
                    rates[way, side].append((options.count / last, (options.count - 1) / (last - first)))
    sizes = " | ".join(f"{2 * side * side // 1024} KB" for side in options.sizes)
    lines = [f"| instances/s | | {sizes} |", "|---|---|" + "---:|" * len(options.sizes)]
    for which, what in enumerate(("from the request on", "from the first to the last")):
        for way in ways:
            medians = (statistics.median(each[which] for each in rates[way, side]) for side in options.sizes)
            lines.append(f"| {way} | {what} | {' | '.join(f'{median:.0f}' for median in medians)} |")
    return "\n".join(lines)


def seconds(way: Way, study: int, count: int) -> tuple[float, float]:
    """How long it takes from the request until the first and the last of `count` instances have arrived."""
    receiver, first = way.receiver, 0.0
    before = receiver.received
    began = time.perf_counter()
    sender = threading.Thread(target=way.send, args=(study,))
    sender.start()
    while receiver.received < before + count:
        now = time.perf_counter() - began
        if now > _ARRIVED_SECONDS:
            raise ClientError(f"only {receiver.received - before} of {count} instances arrived")
        if not first and receiver.received > before:
            first = now
        time.sleep(0.0005)
    last = time.perf_counter() - began
    sender.join()
    return first, last


def _forward(source: WebPeer, study: int, to: Address) -> None:
    body = json.dumps({"remotes": [to.ae_title], "study": study_uid(study)}).encode()
    with WebClient(source.web_port) as web:
        web.post("/api/v1/deliveries", "application/json", [body])


def _noted(source: WebPeer) -> None:
    """Wait until every answer is noted: what is still under way is not sent once more."""
    with WebClient(source.web_port) as web:
        while json.loads(web.get("/api/v1/deliveries?limit=1", "application/json", keep=True).body)["items"]:
            time.sleep(0.05)
    # The task ends behind the last note.
    time.sleep(0.1)
    settle()


def _move(source: WebPeer, study: int, to: Address) -> None:
    with Association(source.address, [client.STUDY_ROOT_MOVE]) as association:
        data = retrieve_template().patched(study)
        association.retrieve(association.request(client.STUDY_ROOT_MOVE, CommandField.C_MOVE, data, to.ae_title))


def _store_of_orthanc(source: WebPeer, study: int, to: Address) -> None:
    with WebClient(source.web_port) as web:
        lookup = web.post("/tools/lookup", "text/plain", [study_uid(study).encode()], keep=True)
        found = next(each["ID"] for each in json.loads(lookup.body) if each["Type"] == "Study")
        web.post(f"/modalities/{to.ae_title}/store", "text/plain", [found.encode()])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, choices=range(1, 101), metavar="N")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="images of the study")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 136, 512], metavar="SIDE", help="pixels of a side")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="keep the servers' files below DIR while it runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
