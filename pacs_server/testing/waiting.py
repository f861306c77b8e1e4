"""Wait for what a client is to do, and say in full what it did instead."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from pacs_server.services.associations import OpenAssociation, PastAssociation
from pacs_server.testing.dimse_faults import Operation

_POLL_SECONDS = 0.01
# How many associations and operations a report names.
_SHOWN = 20

Value = TypeVar("Value")


class WaitFailed(AssertionError):
    """What was waited for did not happen in time."""


def wait_for(condition: Callable[[], Value], seconds: float, report: Callable[[], str]) -> Value:
    """Wait until `condition` is true and return its value. Raises WaitFailed with the report."""
    __tracebackhide__ = True  # pytest shows the line of the test
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise WaitFailed(report())
        time.sleep(_POLL_SECONDS)
    return value


def described(
    ended: Iterable[PastAssociation], running: Iterable[OpenAssociation], operations: Iterable[Operation]
) -> str:
    """The associations and why each ended, and the operations with their answers, for people."""
    associations = [*(_past(each) for each in ended), *(_open(each) for each in running)]
    asked = [f"{each.calling_ae}: {each}" for each in operations]
    return _section("associations", associations) + _section("operations", asked)


def _section(name: str, lines: list[str]) -> str:
    left_out = len(lines) - _SHOWN
    shown = lines[-_SHOWN:] or ["none"]
    if left_out > 0:
        shown.insert(0, f"... {left_out} before these")
    return f"\n  {name}:" + "".join(f"\n    {line}" for line in shown)


def _past(each: PastAssociation) -> str:
    how = "refused" if each.refused else "ended"
    return f"{_between(each.calling_ae, each.called_ae, each.address)}: {how}: {each.outcome}{_counted(each)}"


def _open(each: OpenAssociation) -> str:
    doing = f", which is in {each.doing}" if each.doing else ""
    return f"{_between(each.calling_ae, each.called_ae, each.address)}: still open{doing}{_counted(each)}"


def _between(calling_ae: str, called_ae: str, address: str) -> str:
    return f"{calling_ae or 'no AE title'} -> {called_ae or 'no AE title'} from {address}"


def _counted(each: PastAssociation | OpenAssociation) -> str:
    counted = ", ".join(f"{number} {name}" for name, number in sorted(each.operations.items()))
    traffic = f"{each.traffic.bytes_in} bytes in, {each.traffic.bytes_out} out"
    return f" ({counted or 'no operation'}; {traffic})"
