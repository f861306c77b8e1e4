"""Runs of elements that one data set after the other has in common, as the instances of a series do.

Who finds a run again need not step over its elements: what they say is known by all their bytes.
"""

from collections.abc import Iterable
from typing import NamedTuple

# A run has three elements at least, each with a head of 8 bytes, and is found by its first bytes.
_LEAST = 3
KEY = 24
# Longer elements are in no run, and a longer run is several. A data set made to fill the memory finds it bounded.
_LONGEST = 256
_LONGEST_RUN = 4096
# So many elements of a data set are told, from its beginning.
MOST_STEPS = 1024
# So many first bytes are remembered, so many runs with the same ones, and so many elements of recent data sets.
_MOST_KEYS = 256
_MOST_ALIKE = 8
_MOST_ELEMENTS = 4096


class Run(NamedTuple):
    """Complete elements, one after the other: their bytes, the texts of those that are wanted, last tag and number."""

    raw: bytes
    texts: dict[int, str]
    last: int
    number: int


# Of an element that was stepped over: where it begins and ends, its tag, and its text. That is None if the element is
# not wanted, and False if its bytes alone do not say it. A named tuple would take longer than the step itself.
Step = tuple[int, int, int, str | bool | None]


class Runs:
    """The runs in recent data sets of one encoding; may be shared by all threads."""

    def __init__(self) -> None:
        # By their first bytes, those found last in front.
        self.by_key: dict[bytes, tuple[Run, ...]] = {}
        self._elements: set[bytes] = set()

    def learn(self, data: bytes, steps: Iterable[Step]) -> None:
        """Remember the elements of a data set that were in no run, and the runs of which all are in recent ones too."""
        run: list[Step] = []
        for step in steps:
            start, end, _, text = step
            element = data[start:end] if text is not False and end - start <= _LONGEST else b""
            if run and (run[-1][1] != start or element not in self._elements or end - run[0][0] > _LONGEST_RUN):
                if len(run) >= _LEAST:
                    self._keep(data, run)
                run = []
            if element in self._elements:
                run.append(step)
            elif element:
                if len(self._elements) >= _MOST_ELEMENTS:
                    self._elements.clear()
                self._elements.add(element)
        if len(run) >= _LEAST:
            self._keep(data, run)

    def _keep(self, data: bytes, run: list[Step]) -> None:
        start, (_, end, last, _) = run[0][0], run[-1]
        texts = {tag: text for _, _, tag, text in run if isinstance(text, str)}
        if len(self.by_key) >= _MOST_KEYS:
            self.by_key.clear()
        key = data[start : start + KEY]
        found = Run(data[start:end], texts, last, len(run))
        self.by_key[key] = (found, *self.by_key.get(key, ())[: _MOST_ALIKE - 1])
