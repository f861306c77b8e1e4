"""Parts start in order and stop in reverse, also when one of them cannot start; a reload reaches those that want it."""

from collections.abc import Iterator

import pytest

from pacs_server.app.lifecycle import Part, RunningParts, Steps
from pacs_server.errors import IndexUnavailable

NAMES = ("a", "b", "c", "d")


class Recorded:
    """A part that notes in `calls` what is done to it."""

    def __init__(self, name: str, calls: list[str], *, fails: bool = False) -> None:
        self._name, self._calls, self._fails = name, calls, fails

    def start(self) -> None:
        self._calls.append(f"start {self._name}")
        if self._fails:
            raise IndexUnavailable(self._name)

    def stop(self) -> None:
        self._calls.append(f"stop {self._name}")

    def reload(self) -> None:
        self._calls.append(f"reload {self._name}")


class Stopping:
    """A part that is made ready to work and has only something to close."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name, self._calls = name, calls

    def stop(self) -> None:
        self._calls.append(f"stop {self._name}")
        if self._name == "broken":
            raise OSError(self._name)


class Measured:
    def __init__(self, values: dict[str, float] | None, status: dict[str, object] | None = None) -> None:
        self._values, self._status = values, status or {}

    def gauges(self) -> dict[str, float]:
        if self._values is None:
            raise IndexUnavailable("away")
        return self._values

    def status(self) -> dict[str, object]:
        return self._status


def test_they_stop_in_the_reverse_order_and_once() -> None:
    calls: list[str] = []
    parts = RunningParts()
    parts.start([Recorded("a", calls), Stopping("b", calls), Steps(start=lambda: calls.append("start c"))])
    assert calls == ["start a", "start c"]
    parts.stop()
    parts.stop()
    assert calls == ["start a", "start c", "stop b", "stop a"]


@pytest.mark.parametrize("failing", NAMES)
def test_if_one_cannot_start_exactly_those_before_it_are_stopped(failing: str) -> None:
    calls: list[str] = []
    parts = RunningParts()
    with pytest.raises(IndexUnavailable, match=failing):
        parts.start(Recorded(name, calls, fails=name == failing) for name in NAMES)
    before = NAMES[: NAMES.index(failing)]
    assert calls == [
        *(f"start {name}" for name in (*before, failing)),
        *(f"stop {name}" for name in reversed(before)),
    ]
    # Nothing is left to reload, to ask or to stop.
    calls.clear()
    parts.reload()
    parts.stop()
    assert (calls, parts.gauges(), parts.status()) == ([], {}, {})


def test_one_is_made_when_those_before_it_have_started() -> None:
    calls: list[str] = []

    def made() -> Iterator[Part]:
        for name in NAMES[:2]:
            calls.append(f"make {name}")
            yield Recorded(name, calls)
        raise IndexUnavailable("c cannot be made")

    with pytest.raises(IndexUnavailable, match="c cannot be made"):
        RunningParts().start(made())
    assert calls == ["make a", "start a", "make b", "start b", "stop b", "stop a"]


def test_all_are_stopped_although_one_fails() -> None:
    calls: list[str] = []
    parts = RunningParts()
    parts.start([Stopping("a", calls), Stopping("broken", calls), Stopping("c", calls)])
    with pytest.raises(OSError, match="broken"):
        parts.stop()
    assert calls == ["stop c", "stop broken", "stop a"]


def test_a_reload_reaches_those_that_have_it_in_order() -> None:
    calls: list[str] = []
    parts = RunningParts()
    reloading = Steps(reload=lambda: calls.append("reload b"))
    parts.start([Recorded("a", calls), Stopping("x", calls), reloading, Measured({}), Recorded("c", calls)])
    calls.clear()
    parts.reload()
    assert calls == ["reload a", "reload b", "reload c"]


def test_gauges_and_status_are_merged_and_one_that_fails_hides_no_other() -> None:
    parts = RunningParts()
    parts.start([Measured({"x": 1}, {"first": 1}), Steps(), Measured(None, {"second": 2}), Measured({"y": 2, "z": 3})])
    assert parts.gauges() == {"x": 1, "y": 2, "z": 3}
    assert list(parts.status().items()) == [("first", 1), ("second", 2)]
