"""All metrics of the server. No other module uses the Prometheus client library.

The values of labels come from fixed sets or from the configuration, never from what a peer sends.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.utils import floatToGoString

from pacs_server.kit.spread import Counted, Spread, Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300)
_BYTES = (1e3, 1e4, 1e5, 2.5e5, 5e5, 1e6, 5e6, 1e7, 5e7, 1e8, 5e8, 1e9, 5e9)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_BATCH = (1, 2, 4, 8, 16, 32, 64)
# The statuses of objects that are refused because of this server: out of resources, and a failure in processing.
_REFUSED = (0xA700, 0x0110)


# How many background tasks there are by kind and state, and since when the oldest due one of a kind waits, in seconds.
TaskCounts = tuple[Mapping[tuple[str, str], int], Mapping[str, float]]


class PollingCounts(NamedTuple):
    """Studies found at remotes, by remote and state; and by entry of the polling failures in a row and last answer."""

    studies: Mapping[tuple[str, str], int]
    entries: Mapping[str, tuple[int, float | None]]


class RemoteCounts(NamedTuple):
    """A remote: whether it can be sent to, how many deliveries wait for it and are dead, and the oldest one's age."""

    name: str
    state: str
    waiting: int
    dead: int
    oldest_seconds: float


REMOTE_STATES: Final = ("ready", "paused", "failing", "closed")


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        # Otherwise the page would show for each series when it was created, and be twice as long.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._associations = _tallies("pacs_associations", "Associations accepted.", (), registry)[0]
        self._rejections = Counter(
            "pacs_association_rejections", "Associations and connections refused.", ["reason"], registry=registry
        )
        self._requests = _Requests(
            ("pacs_dimse_requests", "DIMSE requests answered.", ("operation", "status")),
            ("pacs_dimse_seconds", "Time to answer a request."),
        )
        registry.register(self._requests)
        # The series by operation and status, kept because their labels cost more than counting.
        self._answered: dict[tuple[str, int], Spread] = {}
        self._stored = _spread("pacs_stored_bytes", "Sizes of the instances received.", _BYTES, registry)
        self._recovered = Counter(
            "pacs_recovered", "Files that a crash left under way.", ["outcome"], registry=registry
        )
        self._checkpoints = Counter(
            "pacs_checkpoints", "Checkpoints that made stored instances durable.", ["outcome"], registry=registry
        )
        self._suboperations = Counter(
            "pacs_retrieve_suboperations", "Instances sent for C-MOVE and C-GET.", ["outcome"], registry=registry
        )
        self._matches = Counter("pacs_find_matches", "C-FIND matches sent.", registry=registry)
        network = _tallies("pacs_network_bytes", "Bytes over associations.", ("direction", "in", "out"), registry)
        self._bytes_in, self._bytes_out = network
        self._commits = _spread("pacs_index_commit_seconds", "Time of one index transaction.", _SECONDS, registry)
        self._batches = _spread("pacs_index_commit_instances", "Instances in one index transaction.", _BATCH, registry)
        self._commitments = Counter(
            "pacs_commitment_transactions", "Storage commitment transactions.", ["outcome"], registry=registry
        )
        self._attempts = Counter(
            "pacs_task_attempts", "Attempts at background tasks.", ["kind", "outcome"], registry=registry
        )
        self._deliveries = Counter(
            "pacs_delivery_answers",
            "Answers of remotes.",
            ["remote", "outcome"],
            registry=registry,
        )
        self._delivered_bytes = Counter(
            "pacs_delivery_bytes", "Bytes of instances delivered to remotes.", ["remote"], registry=registry
        )
        # The series by remote and outcome, kept for the same reason.
        self._delivered: dict[tuple[str, str], tuple[Counter, Counter]] = {}
        self._reloads = Counter("pacs_config_reloads", "Reloads of the configuration.", ["result"], registry=registry)

        self._web_requests = _Requests(
            ("pacs_web_requests", "HTTP requests answered.", ("door", "method", "status")),
            ("pacs_web_seconds", "Time to answer an HTTP request."),
        )
        registry.register(self._web_requests)
        # Kept as those of DIMSE are.
        self._web_answered: dict[tuple[str, str, int], Spread] = {}
        web_network = Counter("pacs_web_bytes", "Bytes of HTTP bodies.", ["direction"], registry=registry)
        self._web_in, self._web_out = web_network.labels("in"), web_network.labels("out")
        self._web_refused = Counter(
            "pacs_web_refused", "HTTP connections and requests refused or cut off.", ["reason"], registry=registry
        )
        self._steps = Counter(
            "pacs_procedure_steps", "Performed procedure steps begun and ended.", ["status"], registry=registry
        )

        self._sources = Counter(
            "pacs_worklist_inputs",
            "Worklist files and HL7 messages.",
            ["source", "result"],
            registry=registry,
        )
        self._forwarded = Counter("pacs_audit_forwarded", "Audit records sent to the repository.", registry=registry)
        self._audit_backlog = Gauge(
            "pacs_audit_backlog", "Audit records that wait to be sent to the repository.", registry=registry
        )

        self._scrubbed = Counter("pacs_scrub_checked", "Stored instances that the scrub has reread.", registry=registry)
        self._scrubbed_bytes = Counter("pacs_scrub_bytes", "Bytes that the scrub has reread.", registry=registry)
        self._scrub_findings = Gauge(
            "pacs_scrub_findings", "Damaged or missing instances that the scrub has found.", ["kind"], registry=registry
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Show what alarms are about before it has happened.

        Prometheus sees no increase in a series that begins with 1, so that the first event would raise no alarm.
        """
        for counter, values in (
            (self._rejections, ("associations", "connections")),
            (self._checkpoints, ("done", "failed")),
            (self._suboperations, ("completed", "warning", "failed")),
            (self._reloads, ("ok", "failed")),
        ):
            for value in values:
                counter.labels(value)
        for status in _REFUSED:
            self._answered["C-STORE", status] = self._requests.of("C-STORE", f"0x{status:04X}")

    def association(self) -> None:
        """Count an accepted association."""
        self._associations.add(1)

    def rejected(self, reason: str) -> None:
        """Count a rejected association or connection; `reason` comes from a fixed set of names."""
        self._rejections.labels(reason).inc()

    def request(self, operation: str, status: int, seconds: float) -> None:
        """Count an answered request by its final status, and measure how long the answer took."""
        answered = self._answered.get((operation, status))
        if answered is None:
            answered = self._answered[operation, status] = self._requests.of(operation, f"0x{status:04X}")
        answered.observe(seconds)

    def web_request(self, door: str, method: str, status: int, seconds: float) -> None:
        """Count an HTTP request by its status, and measure how long the answer took; 0 is a client that went away."""
        answered = self._web_answered.get((door, method, status))
        if answered is None:
            kind = f"{status // 100}xx" if status else "none"
            answered = self._web_requests.of(door, method if method in _METHODS else "other", kind)
            self._web_answered[door, method, status] = answered
        answered.observe(seconds)

    def web_traffic(self, bytes_in: int, bytes_out: int) -> None:
        """Add the bytes of the bodies of a request and its response."""
        if bytes_in:
            self._web_in.inc(bytes_in)
        if bytes_out:
            self._web_out.inc(bytes_out)

    def web_refused(self, reason: str) -> None:
        """Count an HTTP connection or request refused or cut off; `reason` comes from a fixed set of names."""
        self._web_refused.labels(reason).inc()

    def received(self, size: int) -> None:
        """Measure the size of an object that was received, in bytes."""
        self._stored.observe(size)

    def suboperations(self, completed: int, warning: int, failed: int) -> None:
        """Count the sub-operations of a C-MOVE or C-GET by their outcome."""
        for outcome, count in (("completed", completed), ("warning", warning), ("failed", failed)):
            self._suboperations.labels(outcome).inc(count)

    def matches(self, count: int) -> None:
        """Count the matches that a C-FIND sent."""
        self._matches.inc(count)

    def recovered(self, outcome: str) -> None:
        """Count a file that a dead process left in `incoming/`; `outcome` comes from a fixed set of names."""
        self._recovered.labels(outcome).inc()

    def checkpoint(self, outcome: str) -> None:
        """Count a checkpoint that is done or has failed."""
        self._checkpoints.labels(outcome).inc()

    def traffic(self, bytes_in: int, bytes_out: int) -> None:
        """Add the bytes that an association received and sent."""
        self._bytes_in.add(bytes_in)
        self._bytes_out.add(bytes_out)

    def committed(self, seconds: float, instances: int) -> None:
        """Measure one transaction of the index: how long it took, and how many instances it stored."""
        self._commits.observe(seconds)
        self._batches.observe(instances)

    def commitment(self, outcome: str) -> None:
        """Count a storage commitment transaction that was requested, reported or given_up."""
        self._commitments.labels(outcome).inc()

    def task(self, kind: str, outcome: str) -> None:
        """Count an attempt at a task: done, failed, dead, busy, released, lost."""
        self._attempts.labels(kind, outcome).inc()

    def delivery(self, remote: str, outcome: str, size: int) -> None:
        """Count an answer of a remote: delivered, refused, failed, unreachable, busy; `size` is what it has got."""
        series = self._delivered.get((remote, outcome))
        if series is None:
            series = (self._deliveries.labels(remote, outcome), self._delivered_bytes.labels(remote))
            self._delivered[remote, outcome] = series
        answers, delivered = series
        answers.inc()
        if size:
            delivered.inc(size)

    def reloaded(self, *, ok: bool) -> None:
        """Count a reload of the configuration."""
        self._reloads.labels("ok" if ok else "failed").inc()

    def procedure_step(self, status: str) -> None:
        """Count a performed procedure step whose status has become `status`."""
        self._steps.labels(status).inc()

    def worklist_input(self, source: str, *, accepted: bool) -> None:
        """Count a file (source `folder`) or a message (source `hl7`) with worklist items."""
        self._sources.labels(source, "accepted" if accepted else "rejected").inc()

    def audit_forwarded(self) -> None:
        """Count an audit record that was sent to the audit repository."""
        self._forwarded.inc()

    def watch_audit_backlog(self, backlog: Callable[[], int]) -> None:
        """Call `backlog` at each scrape for the number of audit records that wait to be sent."""
        self._audit_backlog.set_function(backlog)

    def scrubbed(self, size: int) -> None:
        """Count a stored instance of `size` bytes that the scrub has read."""
        self._scrubbed.inc()
        self._scrubbed_bytes.inc(size)

    def watch_scrub(self, findings: Callable[[], Mapping[str, int]]) -> None:
        """Call `findings` at each scrape for the number of damaged or missing instances, by kind."""

        def count(kind: str) -> float:
            return findings()[kind]

        for kind in findings():
            self._scrub_findings.labels(kind).set_function(partial(count, kind))

    def watch(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        """Call `gauges` at each scrape for the values of `GAUGES` by name. A gauge without a value is left out."""
        self._registry.register(_Gauges(gauges))

    def watch_tasks(self, counts: Callable[[], TaskCounts | None]) -> None:
        """Ask `counts` at each scrape how many background tasks there are; None leaves them out."""
        self._registry.register(_TaskGauges(counts))

    def watch_remotes(self, remotes: Callable[[], Iterable[RemoteCounts] | None]) -> None:
        """Ask `remotes` at each scrape how they are; None leaves them out."""
        self._registry.register(_RemoteGauges(remotes))

    def watch_polling(self, polling: Callable[[], PollingCounts | None]) -> None:
        """Ask `polling` at each scrape what has been found at remotes; None leaves it out."""
        self._registry.register(_PollingGauges(polling))

    def render(self) -> bytes:
        """The metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def names(self) -> list[str]:
        """The names of all metrics, as the documentation names them."""
        return sorted(metric.name for metric in self._registry.collect() if metric.name.startswith("pacs_"))


GAUGES = {
    "pacs_associations_active": "Associations in force.",
    "pacs_connections_open": "Connections open, associated or not.",
    "pacs_web_connections": "HTTP connections open on the web port.",
    "pacs_patients": "Patients in the index.",
    "pacs_identity_conflicts": "Patient IDs and studies with patients who cannot be one person.",
    "pacs_studies": "Studies in the index.",
    "pacs_series": "Series in the index.",
    "pacs_instances": "Instances in the index.",
    "pacs_storage_free_bytes": "Free space on the storage.",
    "pacs_quarantine_files": "Files in quarantine.",
    "pacs_checkpoint_waiting": "Stored instances that wait for the next checkpoint.",
    "pacs_storage_days_left": "Days until the storage is full, at the rate of the last week.",
    "pacs_feed_lag": "Instances and changes that the slowest consumer of the feed has not read yet.",
    "pacs_commitment_pending": "Storage commitment transactions whose report is not delivered yet.",
    "pacs_commitment_given_up": "Storage commitment transactions whose report was given up.",
    "pacs_commitment_oldest_undelivered_seconds": "Age of the oldest pending transaction.",
    "pacs_tls_certificate_expiry_seconds": "Unix time when the server's certificate expires.",
    "pacs_web_tls_certificate_expiry_seconds": "Unix time when the certificate of the web port expires.",
    "pacs_tls_crl_expiry_seconds": "Unix time when the first of the certificate revocation lists expires.",
    "pacs_scrub_last_pass_seconds": "Unix time when the scrub last finished reading the whole archive.",
    "pacs_last_backup_seconds": "Unix time when the last known backup of this archive ended.",
    "pacs_ready": "Whether the server can store and send instances (1 or 0).",
}


class _Requests:
    """Requests counted by their labels, and how long they took by the first label.

    The counters and histograms of the library take several times as long, and each request would need two.
    """

    def __init__(self, counted: tuple[str, str, Sequence[str]], timed: tuple[str, str]) -> None:
        self._counted = counted
        self._timed = timed
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], Spread] = {}

    def of(self, *labels: str) -> Spread:
        """What takes the seconds of requests with these labels."""
        with self._lock:
            return self._series.setdefault(labels, Spread(_SECONDS))

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            series = {labels: spread.counted() for labels, spread in self._series.items()}
        requests, seconds = self.describe()
        by_first: dict[str, list[Counted]] = {}
        for labels, counted in series.items():
            requests.add_metric(labels, sum(counted.buckets))
            by_first.setdefault(labels[0], []).append(counted)
        for label, several in by_first.items():
            together = Counted.together(several)
            seconds.add_metric([label], _buckets(_SECONDS, together), together.total)
        yield from (requests, seconds)

    def describe(self) -> tuple[CounterMetricFamily, HistogramMetricFamily]:
        name, text, labels = self._counted
        return CounterMetricFamily(name, text, labels=labels), HistogramMetricFamily(*self._timed, labels=labels[:1])


class _Histogram:
    """A histogram without labels, of a `Spread`."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], spread: Spread) -> None:
        self._about = name, text
        self._bounds = bounds
        self._spread = spread

    def collect(self) -> Iterator[Metric]:
        counted = self._spread.counted()
        yield HistogramMetricFamily(*self._about, buckets=_buckets(self._bounds, counted), sum_value=counted.total)

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(*self._about)


class _Counters:
    """A counter of `Tally`s, by the values of a label or without one."""

    def __init__(self, name: str, text: str, label: str, tallies: Mapping[str, Tally]) -> None:
        self._about = name, text
        self._labels = [label] if label else []
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        family = next(self.describe())
        for value, tally in self._tallies.items():
            family.add_metric([value] if self._labels else [], tally.value)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(*self._about, labels=self._labels)


def _tallies(name: str, text: str, label: Sequence[str], registry: CollectorRegistry) -> list[Tally]:
    """A tally for each value of a label, of which the first of `label` is the name; a single one without a label."""
    tallies = {value: Tally() for value in label[1:] or [""]}
    registry.register(_Counters(name, text, label[0] if label else "", tallies))
    return list(tallies.values())


def _spread(name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> Spread:
    spread = Spread(bounds)
    registry.register(_Histogram(name, text, bounds, spread))
    return spread


def _buckets(bounds: Sequence[float], counted: Counted) -> list[tuple[str, float]]:
    names = [*map(floatToGoString, bounds), "+Inf"]
    return list(zip(names, counted.cumulative, strict=True))


class _Gauges:
    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        values = self._gauges()
        for name, text in GAUGES.items():
            if name in values:
                yield GaugeMetricFamily(name, text, value=values[name])

    def describe(self) -> Iterator[Metric]:
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(name, text)


class _TaskGauges:
    def __init__(self, counts: Callable[[], TaskCounts | None]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counted = self._counts()
        if counted is None:
            return
        tasks, oldest = self.describe()
        for (kind, state), count in counted[0].items():
            tasks.add_metric([kind, state], count)
        for kind, seconds in counted[1].items():
            oldest.add_metric([kind], seconds)
        yield from (tasks, oldest)

    def describe(self) -> list[GaugeMetricFamily]:
        return [
            GaugeMetricFamily(
                "pacs_tasks", "Background tasks that are ready, running or dead.", labels=["kind", "state"]
            ),
            GaugeMetricFamily(
                "pacs_tasks_oldest_due_seconds", "How long the oldest due task has waited.", labels=["kind"]
            ),
        ]


class _PollingGauges:
    def __init__(self, polling: Callable[[], PollingCounts | None]) -> None:
        self._polling = polling

    def collect(self) -> Iterator[Metric]:
        counted = self._polling()
        if counted is None:
            return
        studies, failures, answered = self.describe()
        for (remote, state), count in counted.studies.items():
            studies.add_metric([remote, state], count)
        for name, (failed, at) in counted.entries.items():
            failures.add_metric([name], failed)
            if at is not None:
                answered.add_metric([name], at)
        yield from (studies, failures, answered)

    def describe(self) -> list[GaugeMetricFamily]:
        return [
            GaugeMetricFamily("pacs_remote_studies", "Studies that were found at remotes.", labels=["remote", "state"]),
            GaugeMetricFamily(
                "pacs_polling_failures", "How often in a row a polled remote did not answer.", labels=["polling"]
            ),
            GaugeMetricFamily(
                "pacs_polling_answered_timestamp_seconds", "Unix time of its last answer.", labels=["polling"]
            ),
        ]


class _RemoteGauges:
    def __init__(self, remotes: Callable[[], Iterable[RemoteCounts] | None]) -> None:
        self._remotes = remotes

    def collect(self) -> Iterator[Metric]:
        counted = self._remotes()
        if counted is None:
            return
        deliveries, oldest, states = self.describe()
        for remote in counted:
            deliveries.add_metric([remote.name, "waiting"], remote.waiting)
            deliveries.add_metric([remote.name, "dead"], remote.dead)
            oldest.add_metric([remote.name], remote.oldest_seconds)
            for state in REMOTE_STATES:
                states.add_metric([remote.name, state], remote.state == state)
        yield from (deliveries, oldest, states)

    def describe(self) -> list[GaugeMetricFamily]:
        return [
            GaugeMetricFamily("pacs_deliveries", "Deliveries that wait or are dead.", labels=["remote", "state"]),
            GaugeMetricFamily(
                "pacs_deliveries_oldest_seconds", "Age of the oldest delivery that waits.", labels=["remote"]
            ),
            GaugeMetricFamily(
                "pacs_remote_state", "Whether a remote can be sent to: 1 for its state.", labels=["remote", "state"]
            ),
        ]
