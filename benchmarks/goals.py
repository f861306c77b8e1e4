"""What is wanted of this server in each row, beside the others in the same run, and whether it is so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OURS, NO_FSYNC = "pacs-server", "nofsync"
ORTHANC, DCMQRSCP = "orthanc", "dcmqrscp"
_NAMES = {ORTHANC: "Orthanc", DCMQRSCP: "dcmqrscp"}


@dataclass(frozen=True, slots=True)
class Times:
    """To be at least `factor` times as good as the best of `others`."""

    factor: float
    others: tuple[str, ...] = (ORTHANC,)
    subject: str = OURS

    @property
    def text(self) -> str:
        """The goal in a few words."""
        names = " and ".join(_NAMES[other] for other in self.others)
        best = f"the better of {names}" if len(self.others) > 1 else names
        wanted = f"{self.factor:g}x {best}"
        return wanted if self.subject == OURS else f"fsync off: {wanted}"

    def verdict(self, medians: Mapping[str, float | None], *, lower_is_better: bool) -> str:
        """Whether it is reached, with the factor that was."""
        ours, theirs = medians.get(self.subject), [medians.get(other) for other in self.others]
        known = [value for value in theirs if value]
        if not ours or len(known) < len(theirs):
            return "not measured"
        factor = min(known) / ours if lower_is_better else ours / max(known)
        return f"{'reached' if factor >= self.factor else 'missed'}, {factor:.2f}x"


@dataclass(frozen=True, slots=True)
class AtMost:
    """To be no more than `most`."""

    most: float
    unit: str

    @property
    def text(self) -> str:
        """The goal in a few words."""
        return f"at most {self.most:g} {self.unit}"

    def verdict(self, medians: Mapping[str, float | None], *, lower_is_better: bool) -> str:
        """Whether it is reached."""
        ours = medians.get(OURS)
        if ours is None:
            return "not measured"
        return "reached" if ours <= self.most else "missed"


Goal = Times | AtMost
_BOTH = (ORTHANC, DCMQRSCP)
GOALS: Mapping[str, Sequence[Goal]] = {
    "store-large": (Times(1.8), Times(1, (DCMQRSCP,), NO_FSYNC)),
    "store-small": (Times(1.8),),
    "store-small-p99": (Times(1, _BOTH),),
    "store-large-8": (Times(1.5),),
    "store-small-8": (Times(1.5),),
    "store-plain": (Times(30),),
    "get": (Times(1.3, _BOTH),),
    "move": (Times(1.2, _BOTH),),
    "find": (Times(2),),
    "find-all": (Times(5),),
    "echo": (Times(1),),
    "associations": (Times(1, (DCMQRSCP,)), Times(1)),
    "idle": (AtMost(0.05, "%"),),
    "memory": (AtMost(64, "MiB"),),
}


def goal_cell(row: str, medians: Mapping[str, float | None], *, lower_is_better: bool) -> str:
    """The goals of a row and whether they are reached, as a cell of the table."""
    return "; ".join(
        f"{goal.text}: {goal.verdict(medians, lower_is_better=lower_is_better)}" for goal in GOALS.get(row, ())
    )
