"""Values counted by buckets: the same text for Prometheus as its own histograms make."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from pacs_server.kit.metrics import Metrics
from pacs_server.kit.spread import Counted, Spread

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300)


def test_a_bound_belongs_to_the_values_up_to_it() -> None:
    spread = Spread((1, 10))
    for value in (0.5, 1, 1.5, 10, 11):
        spread.observe(value)
    assert spread.counted() == Counted((2, 2, 1), 24)
    assert spread.counted().cumulative == [2, 4, 5]


def test_several_are_added_up() -> None:
    assert Counted.together([Counted((1, 2), 3.0), Counted((10, 0), 5.0)]) == Counted((11, 2), 8.0)


def test_requests_are_shown_as_by_the_library() -> None:
    requests = [("C-ECHO", 0, 0.0005), ("C-ECHO", 0, 0.2), ("C-STORE", 0xA700, 301.0), ("C-STORE", 0, 0.01)]
    registry, metrics = CollectorRegistry(), Metrics()
    counted = Counter("pacs_dimse_requests", "DIMSE requests answered.", ["operation", "status"], registry=registry)
    timed = Histogram(
        "pacs_dimse_seconds", "Time to answer a request.", ["operation"], buckets=BOUNDS, registry=registry
    )
    stored = Histogram("pacs_stored_bytes", "Sizes of the instances received.", buckets=(1e3, 1e4), registry=registry)
    for operation, status, seconds in requests:
        counted.labels(operation, f"0x{status:04X}").inc()
        timed.labels(operation).observe(seconds)
        metrics.request(operation, status, seconds)
    stored.observe(5000)
    metrics.received(5000)
    shown = set(metrics.render().splitlines())
    assert set(generate_latest(registry).splitlines()) <= shown
