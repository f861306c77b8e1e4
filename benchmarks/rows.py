"""The rows of the table: what is measured, one function each."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import client, jobs, resources
from benchmarks.client import Address, Association, Timing, repeat
from benchmarks.instances import find_template, retrieve_template
from benchmarks.jobs import AssociationJob, FindJob, GetJob, StoreJob
from benchmarks.peers import Service
from benchmarks.wire import ClientError
from benchmarks.workers import Workers
from pacs_server.net.message import CommandField

# Pixels of two bytes: 512 KB and, with the header, 10 KB.
LARGE, SMALL = 512, 64
ASSOCIATIONS = 8


@dataclass(frozen=True, slots=True)
class Counts:
    """How much one round does; a measurement begins nothing new after `limit` seconds."""

    large: int = 200
    small: int = 500
    each_large: int = 50
    each_small: int = 150
    plain: int = 150
    study: int = 100
    studies: int = 400
    queries: int = 300
    all_studies: int = 5
    retrieves: int = 3
    echoes: int = 3000
    associations: int = 200
    idle: float = 3.0
    limit: float = 4.0


QUICK = Counts(
    large=60, small=150, each_large=15, each_small=40, plain=50, studies=200, queries=100,
    all_studies=2, retrieves=1, echoes=1000, associations=60, idle=1.5, limit=1.5,
)  # fmt: skip


@dataclass(slots=True)
class Bench:
    """What a measurement may use; numbers of studies and instances are given out once."""

    counts: Counts
    destination: Address
    workers: Workers
    _studies: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _next_sop: int = 1
    _prepared: dict[tuple[int, str], int] = field(default_factory=dict)

    def study(self) -> int:
        """The number of a study that no peer has."""
        return next(self._studies)

    def sops(self, count: int) -> range:
        """The numbers of `count` instances that no peer has."""
        self._next_sop += count
        return range(self._next_sop - count, self._next_sop)

    def once(self, address: Address, what: str, prepare: Callable[["Bench", Address], int]) -> int:
        """What `prepare` has returned for this peer; it is called the first time."""
        key = (address.port, what)
        if key not in self._prepared:
            self._prepared[key] = prepare(self, address)
        return self._prepared[key]


@dataclass(frozen=True, slots=True)
class Row:
    """A row: `measure` returns one round's number for one peer, in `unit`; some are the same in every round."""

    key: str
    title: str
    unit: str
    service: Service
    measure: Callable[[Bench, Address], float]
    lower_is_better: bool = False
    most_rounds: int = 100


# ------------------------------------------------------------------------------------ C-STORE


def _store(side: int, count: Callable[[Counts], int], *, plain: bool = False) -> Callable[[Bench, Address], Timing]:
    def measure(bench: Bench, address: Address) -> Timing:
        sops = bench.sops(count(bench.counts))
        return StoreJob(address, side, bench.study(), sops, bench.counts.limit, plain).run()

    return measure


def _store_in_parallel(side: int, count: Callable[[Counts], int]) -> Callable[[Bench, Address], float]:
    def measure(bench: Bench, address: Address) -> float:
        each, limit = count(bench.counts), bench.counts.limit
        shares = [StoreJob(address, side, bench.study(), bench.sops(each), limit) for _ in range(ASSOCIATIONS)]
        return Timing.together(bench.workers.run(shares)).rate

    return measure


def _rate(measure: Callable[[Bench, Address], Timing]) -> Callable[[Bench, Address], float]:
    return lambda bench, address: measure(bench, address).rate


def _p99(measure: Callable[[Bench, Address], Timing]) -> Callable[[Bench, Address], float]:
    return lambda bench, address: measure(bench, address).p99


# ------------------------------------------------------------------------------------ query and retrieve


def prepare_study(bench: Bench, address: Address) -> int:
    """Store a study of large images, all in one series; returns its number."""
    study = bench.study()
    count = bench.counts.study
    timing = StoreJob(address, LARGE, study, bench.sops(count), limit=60).run()
    if timing.count < count:
        raise ClientError(f"only {timing.count} of {count} images could be stored in a minute")
    return study


def _prepare_studies(bench: Bench, address: Address) -> int:
    """One small image in each of many studies; returns the number of the first."""
    count = bench.counts.studies
    studies = [bench.study() for _ in range(count)]
    jobs.store_studies(address, SMALL, range(studies[0], studies[0] + count), bench.sops(count))
    return studies[0]


def _get(bench: Bench, address: Address) -> float:
    study = bench.once(address, "study", prepare_study)
    return _checked(GetJob(address, study, bench.counts.retrieves, bench.counts.limit).run(), bench)


def _move(bench: Bench, address: Address) -> float:
    study = bench.once(address, "study", prepare_study)
    with Association(address, [client.STUDY_ROOT_MOVE]) as association:
        data = retrieve_template().patched(study)
        to = bench.destination.ae_title
        request = association.request(client.STUDY_ROOT_MOVE, CommandField.C_MOVE, data, to)
        return _checked(repeat([request] * bench.counts.retrieves, association.retrieve, bench.counts.limit), bench)


def _checked(timing: Timing, bench: Bench) -> float:
    if timing.count % bench.counts.study or not timing.count:
        raise ClientError(f"{timing.count} images arrived, which is not the study of {bench.counts.study}")
    return timing.rate


def _find_by_patient_id(bench: Bench, address: Address) -> float:
    first = bench.once(address, "studies", _prepare_studies)
    studies = range(first, first + bench.counts.studies)
    timing = FindJob(address, studies, bench.counts.queries, bench.counts.limit).run()
    if timing.count != len(timing.seconds):
        raise ClientError(
            f"{timing.count} matches to {len(timing.seconds)} queries for one patient with one study each"
        )
    return timing.rate


def _find_all(bench: Bench, address: Address) -> float:
    bench.once(address, "studies", _prepare_studies)
    with Association(address, [client.STUDY_ROOT_FIND]) as association:
        data = find_template(one_patient=False).data
        request = association.request(client.STUDY_ROOT_FIND, CommandField.C_FIND, data)
        timing = repeat([request] * bench.counts.all_studies, association.find, bench.counts.limit)
    if timing.count < bench.counts.studies * len(timing.seconds):
        raise ClientError(f"{timing.count} matches are too few")
    return timing.rate


# ------------------------------------------------------------------------------------ associations


def _echo(bench: Bench, address: Address) -> float:
    with Association(address, [client.VERIFICATION]) as association:
        request = association.request(client.VERIFICATION, CommandField.C_ECHO)
        return repeat([request] * bench.counts.echoes, association.echo, bench.counts.limit).rate


def _associations(bench: Bench, address: Address) -> float:
    return AssociationJob(address, bench.counts.associations, bench.counts.limit).run().rate


# ------------------------------------------------------------------------------------ what it needs


def _idle(bench: Bench, address: Address) -> float:
    return resources.idle_cpu(address, bench.counts.idle)


def _memory(bench: Bench, address: Address) -> float:
    return resources.extra_memory(address, bench.study(), bench.sops(1)[0])


_SMALL_STORE = _store(SMALL, lambda counts: counts.small)
ROWS = (
    Row("store-large", "C-STORE 512 KB CT, 1 association", "instances/s", Service.STORAGE,
        _rate(_store(LARGE, lambda counts: counts.large))),
    Row("store-small", "C-STORE 10 KB, 1 association", "instances/s", Service.STORAGE, _rate(_SMALL_STORE)),
    Row("store-small-p99", "C-STORE 10 KB, p99 of the latency", "ms", Service.STORAGE, _p99(_SMALL_STORE),
        lower_is_better=True),
    Row("store-large-8", "C-STORE 512 KB CT, 8 associations", "instances/s", Service.STORAGE,
        _store_in_parallel(LARGE, lambda counts: counts.each_large)),
    Row("store-small-8", "C-STORE 10 KB, 8 associations", "instances/s", Service.STORAGE,
        _store_in_parallel(SMALL, lambda counts: counts.each_small)),
    Row("store-plain", "C-STORE 10 KB, client with Nagle on", "instances/s", Service.STORAGE,
        _rate(_store(SMALL, lambda counts: counts.plain, plain=True))),
    Row("get", "C-GET of a study of 100 CT", "instances/s", Service.GET, _get),
    Row("move", "C-MOVE of a study of 100 CT", "instances/s", Service.MOVE, _move),
    Row("find", "C-FIND by Patient ID", "queries/s", Service.FIND, _find_by_patient_id),
    Row("find-all", "C-FIND of all studies", "matches/s", Service.FIND, _find_all),
    Row("echo", "C-ECHO", "round trips/s", Service.VERIFICATION, _echo),
    Row("associations", "associations opened and released", "associations/s", Service.VERIFICATION, _associations),
    Row("idle", f"CPU of {resources.IDLE} idle associations", "% of a core", Service.VERIFICATION, _idle,
        lower_is_better=True, most_rounds=2),
    Row("memory", "extra memory to store one object of 600 MB", "MiB", Service.STORAGE, _memory,
        lower_is_better=True, most_rounds=1),
)  # fmt: skip


def settle() -> None:
    """Let the kernel write out what earlier measurements have left, so that nobody pays for somebody else."""
    os.sync()
