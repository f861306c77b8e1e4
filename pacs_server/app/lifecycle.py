"""Start the parts of a server in order, reload them, and stop them in the reverse order.

A part is any object with at least one of the methods `start`, `reload`, `stop`, `gauges` and `status`. It has those
that it needs and no others. Which parts a server has is listed in `parts.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pacs_server.errors import PacsError


@runtime_checkable
class Startable(Protocol):
    """A part that begins to work when it is started."""

    def start(self) -> None:
        """Begin to work. If this raises, `stop` is not called."""


@runtime_checkable
class Stoppable(Protocol):
    """A part that has something to end or to close."""

    def stop(self) -> None:
        """End everything that the part does; called once, after all parts that started later were stopped."""


@runtime_checkable
class Reloadable(Protocol):
    """A part with settings that may change while the server runs."""

    def reload(self) -> None:
        """Take over the settings as they are now. They were checked before, so this does not fail."""


@runtime_checkable
class Measurable(Protocol):
    """A part that measures something for Prometheus."""

    def gauges(self) -> Mapping[str, float]:
        """The values of the gauges in `kit/metrics.py` that the part knows, by name; must not block for long."""


@runtime_checkable
class Describable(Protocol):
    """A part that the status page describes."""

    def status(self) -> Mapping[str, object]:
        """The sections of the status page that are about this part, by name; must not block for long."""


Part = Startable | Stoppable | Reloadable | Measurable | Describable


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A part that is made of functions."""

    start: Callable[[], None] = _nothing
    stop: Callable[[], None] = _nothing
    reload: Callable[[], None] = _nothing


class RunningParts:
    """The parts that have been started."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._stops = ExitStack()

    def start(self, parts: Iterable[Part]) -> None:
        """Start each part before the next one is taken from `parts`, which may therefore make them one by one.

        If a part cannot be made or started, stop the parts before it and raise its error.
        """
        with ExitStack() as stops:
            stops.callback(self._parts.clear)
            for part in parts:
                if isinstance(part, Startable):
                    part.start()
                self._parts.append(part)
                if isinstance(part, Stoppable):
                    stops.callback(part.stop)
            self._stops = stops.pop_all()

    def stop(self) -> None:
        """Stop all parts, the last one first; all of them even if one raises. A second call does nothing."""
        self._stops.close()

    def reload(self) -> None:
        """Have every part take over the settings, in the order in which the parts were started."""
        for part in self._parts:
            if isinstance(part, Reloadable):
                part.reload()

    def gauges(self) -> dict[str, float]:
        """The gauges of all parts; those of a part that cannot tell them now are left out."""
        values: dict[str, float] = {}
        for part in tuple(self._parts):
            if isinstance(part, Measurable):
                with suppress(PacsError):
                    values.update(part.gauges())
        return values

    def status(self) -> dict[str, object]:
        """The sections of the status page, in the order in which the parts were started."""
        sections: dict[str, object] = {}
        for part in tuple(self._parts):
            if isinstance(part, Describable):
                sections.update(part.status())
        return sections
