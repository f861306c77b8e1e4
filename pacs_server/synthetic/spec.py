"""Many studies at once, described by a text such as `ct=2,sr=1,images=5,seed=7`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple, cast

from pydicom.dataset import Dataset

from pacs_server.synthetic.kinds import BESIDE_CT, KINDS
from pacs_server.synthetic.people import SCRIPTS
from pacs_server.synthetic.study import Options

ALL_CHARSETS: Final = "all"
NAMES: Final = (*KINDS, *BESIDE_CT)
"""The kinds that can be asked for."""
_NUMBERS: Final = ("images", "frames", "seed", "size")
_TEXTS: Final = ("charset", "patient", "description", "transfer_syntax")


class MadeStudy(NamedTuple):
    """A study: its kind, its seed, and its data sets, which are made while they are read."""

    kind: str
    seed: int
    instances: Iterator[Dataset]


@dataclass(frozen=True, slots=True)
class Spec:
    """How many studies of each kind, the first one's seed, and options for all of them.

    Without any kind there is one of each. Of a kind the second study has the next seed, and so on. `sr`, `seg` and `rt`
    belong to the CT studies, the first one to the first; a CT that is missing is added. With the character set `all`
    each study has another one.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    seed: int = 1
    images: int | None = None
    frames: int | None = None
    options: Options = field(default_factory=Options)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """The specification that a text gives; raises ValueError with a sentence if it gives none."""
        counts: dict[str, int] = {}
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = part.partition("=")
            name = name.strip().replace("-", "_")
            if name in NAMES:
                counts[name] = _whole(name, value if equals else "1")
            elif name in _NUMBERS:
                values[name] = _whole(name, value)
            elif name in _TEXTS:
                values[name] = value
            else:
                raise ValueError(f"{part!r} is not one of {', '.join((*NAMES, *_NUMBERS, *_TEXTS))} with a value")
        own = {name: values.pop(name) for name in ("seed", "images", "frames") if name in values}
        return cls(counts, options=cast(Options, values), **own)

    def studies(self) -> Iterator[MadeStudy]:
        """The studies one after the other. Raises ValueError if an option has no sense."""
        counts = dict(self.counts) if any(self.counts.values()) else dict.fromkeys(NAMES, 1)
        counts["ct"] = max(counts.get(name, 0) for name in ("ct", *BESIDE_CT))
        number = 0
        for kind, (make, usual, unit) in KINDS.items():
            asked = {"images": self.images, "frames": self.frames}.get(unit)
            for seed in range(self.seed, self.seed + counts.get(kind, 0)):
                options = self._options(seed, number)
                number += 1
                instances = _checked(make, usual if asked is None else asked, options)
                beside = [name for name in BESIDE_CT if kind == "ct" and seed - self.seed < counts.get(name, 0)]
                yield MadeStudy(kind, seed, _with(beside, instances, options) if beside else instances)

    def _options(self, seed: int, number: int) -> Options:
        options = Options(**self.options)
        options["seed"] = seed
        if options.get("charset") == ALL_CHARSETS:
            options["charset"] = list(SCRIPTS)[number % len(SCRIPTS)]
        return options


def from_spec(text: str) -> list[Dataset]:
    """The data sets of the studies that a text such as `ct=2,sr=1` describes; raises ValueError with a sentence."""
    return list(chain.from_iterable(study.instances for study in Spec.parse(text).studies()))


def _checked(make: Callable[[int, Options], Iterator[Dataset]], count: int, options: Options) -> Iterator[Dataset]:
    if count < 1:
        raise ValueError("a study has one image at least")
    return make(count, options)


def _with(beside: list[str], instances: Iterator[Dataset], options: Options) -> Iterator[Dataset]:
    images = list(instances)
    yield from images
    for name in beside:
        yield from BESIDE_CT[name](images, options)


def _whole(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} has to be a whole number, not {value!r}") from None
