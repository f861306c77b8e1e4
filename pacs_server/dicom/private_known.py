"""Values that vendors keep in private elements, under the names and in the units that the Standard has for them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.datadict import tag_for_keyword

from pacs_server.dicom.json_model import DataSet, items_of
from pacs_server.dicom.private_elements import PrivateElement, private_elements

Read = Callable[[Sequence[float]], list[float]]


def _all(values: Sequence[float]) -> list[float]:
    return list(values)


def _without_bias(values: Sequence[float]) -> list[float]:
    """The b-value alone: GE adds a thousand million to some of them."""
    return [values[0] % 1_000_000_000]


def _reciprocal(values: Sequence[float]) -> list[float]:
    return [round(1 / values[0], 6)] if values[0] else []


@dataclass(frozen=True, slots=True)
class Known:
    """What private elements of a creator mean: the keyword of the Standard, or a name of its own if that has none.

    Several `numbers` are one value each; all of them are needed.
    """

    keyword: str
    vendor: str
    creator: str
    numbers: tuple[str, ...]
    source: str
    read: Read = _all

    @property
    def tag(self) -> str:
        """The tag of the attribute of the Standard, '' if it has none."""
        found = tag_for_keyword(self.keyword)
        return "" if found is None else f"{found:08X}"


_DCM2NIIX: Final = "https://github.com/rordenlab/dcm2niix"

KNOWN: Final = (
    Known(
        "DiffusionBValue", "Siemens", "SIEMENS MR HEADER", ("0019xx0C",),
        f"{_DCM2NIIX}/blob/master/Siemens/README.md",
    ),
    Known(
        "DiffusionGradientOrientation", "Siemens", "SIEMENS MR HEADER", ("0019xx0E",),
        f"{_DCM2NIIX}/blob/master/Siemens/README.md",
    ),
    Known(
        "NumberOfImagesInMosaic", "Siemens", "SIEMENS MR HEADER", ("0019xx0A",),
        "pydicom's dictionary of private elements",
    ),
    Known("DiffusionBValue", "GE", "GEMS_PARM_01", ("0043xx39",), f"{_DCM2NIIX}/issues/602", _without_bias),
    Known(
        "ParallelReductionFactorInPlane", "GE", "GEMS_PARM_01", ("0043xx83",),
        f"{_DCM2NIIX}/blob/master/GE/README.md", _reciprocal,
    ),
    Known(
        "DiffusionBValue", "Philips", "Philips Imaging DD 001", ("2001xx03",),
        f"{_DCM2NIIX}/blob/master/Philips/README.md",
    ),
    Known(
        "DiffusionGradientOrientation", "Philips", "Philips MR Imaging DD 001", ("2005xxB0", "2005xxB1", "2005xxB2"),
        f"{_DCM2NIIX}/blob/master/Philips/README.md",
    ),
)  # fmt: skip
"""The gradient directions of GE are left out: they are in the directions of encoding, those of the Standard in the
patient's (dcm2niix, GE/README.md)."""


@dataclass(frozen=True, slots=True)
class Normalised:
    """A value under its standard name, and the private elements that it was read from.

    `path` names the item that has them: '' for the data set itself, else the tags of sequences with the numbers of
    their items, from 1, as 52009230[1].2005140F[1].
    """

    known: Known
    values: list[float]
    elements: tuple[PrivateElement, ...]
    path: str = ""


def normalised(data_set: DataSet, path: str = "") -> Iterator[Normalised]:
    """The well known values of the private elements of a data set and of all its items.

    Values that the data set has in the attribute of the Standard are left out: that one counts.
    """
    yield from _of_level(data_set, path)
    for tag in sorted(data_set):
        for number, item in enumerate(items_of(data_set, tag), 1):
            yield from normalised(item, f"{path}.{tag}[{number}]".lstrip("."))


def _of_level(data_set: DataSet, path: str) -> Iterator[Normalised]:
    found = {(each.creator.casefold(), each.number): each for each in private_elements(data_set)}
    for known in KNOWN if found else ():
        keys = [(known.creator.casefold(), number) for number in known.numbers]
        if known.tag not in data_set and all(key in found for key in keys):
            own = tuple(found[key] for key in keys)
            values = _numbers(own)
            if values and (read := known.read(values)) and all(map(math.isfinite, read)):
                yield Normalised(known, read, own, path)


def _numbers(elements: Sequence[PrivateElement]) -> list[float]:
    """The values as numbers; an empty list if one of them is none."""
    found: list[Any] = [value for each in elements for value in each.values()]
    try:
        numbers = [float(value) for value in found]
    except (TypeError, ValueError):
        return []
    if not all(map(math.isfinite, numbers)):
        return []
    return [int(each) if each.is_integer() else each for each in numbers]
