"""**The** table of the kinds of synthetic studies, each a function that returns data sets with file meta.

Objects that belong to a CT (`sr`, `seg`, `rt`) take its data sets. Without them they belong to the CT of the same seed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Unpack

from pydicom.dataset import Dataset

from pacs_server.synthetic.enhanced import enhanced_ct_images
from pacs_server.synthetic.multiframe import us_images, xa_images
from pacs_server.synthetic.radiography import cr_images, dx_images, mg_images
from pacs_server.synthetic.radiotherapy import radiotherapy
from pacs_server.synthetic.report import report
from pacs_server.synthetic.segmentation import segmentation
from pacs_server.synthetic.slide import slide_images
from pacs_server.synthetic.study import Options
from pacs_server.synthetic.tomography import ct_images, mr_images, pet_images

Make = Callable[[int, Options], Iterator[Dataset]]


class Kind(NamedTuple):
    """A kind of study: what makes it, of how many images, frames or levels by default, and what these are called."""

    make: Make
    usual: int
    unit: str


KINDS: Final[Mapping[str, Kind]] = {
    "ct": Kind(ct_images, 3, "images"),
    "mr": Kind(mr_images, 3, "images"),
    "pet": Kind(pet_images, 3, "images"),
    "cr": Kind(cr_images, 1, ""),
    "dx": Kind(dx_images, 1, ""),
    "mg": Kind(mg_images, 4, ""),
    "us": Kind(us_images, 6, "frames"),
    "xa": Kind(xa_images, 6, "frames"),
    "enhanced_ct": Kind(enhanced_ct_images, 4, "frames"),
    "slide": Kind(slide_images, 2, ""),
}


def ct(images: int = 3, **options: Unpack[Options]) -> list[Dataset]:
    """A CT of the chest, with a nodule in the right lung."""
    return list(ct_images(images, options))


def mr(images: int = 3, **options: Unpack[Options]) -> list[Dataset]:
    """An MR of the head: a T1 and a T2 weighted series with this many images each."""
    return list(mr_images(images, options))


def pet(images: int = 3, **options: Unpack[Options]) -> list[Dataset]:
    """A PET of the chest, in Bq/ml."""
    return list(pet_images(images, options))


def cr(images: int = 1, **options: Unpack[Options]) -> list[Dataset]:
    """Computed radiographs of the chest."""
    return list(cr_images(images, options))


def dx(images: int = 1, **options: Unpack[Options]) -> list[Dataset]:
    """Digital radiographs of the chest."""
    return list(dx_images(images, options))


def mg(images: int = 4, **options: Unpack[Options]) -> list[Dataset]:
    """Mammograms: R CC, L CC, R MLO, L MLO, and so on."""
    return list(mg_images(images, options))


def us(frames: int = 6, **options: Unpack[Options]) -> list[Dataset]:
    """An ultrasound of a beating heart, one instance of many frames in colours."""
    return list(us_images(frames, options))


def xa(frames: int = 6, **options: Unpack[Options]) -> list[Dataset]:
    """A coronary angiogram, one instance of many frames."""
    return list(xa_images(frames, options))


def enhanced_ct(frames: int = 4, **options: Unpack[Options]) -> list[Dataset]:
    """An enhanced CT of the chest, one instance with a frame for each slice."""
    return list(enhanced_ct_images(frames, options))


def slide(levels: int = 2, **options: Unpack[Options]) -> list[Dataset]:
    """A whole slide image in tiles, one instance for each level."""
    return list(slide_images(levels, options))


def sr(images: Sequence[Dataset] = (), **options: Unpack[Options]) -> list[Dataset]:
    """A report with measurements of the nodule in the images of `ct`."""
    return [report(images or ct(**options), options)]


def seg(images: Sequence[Dataset] = (), **options: Unpack[Options]) -> list[Dataset]:
    """A segmentation of lungs and nodule in the images of `ct`."""
    return [segmentation(images or ct(**options), options)]


def rt(images: Sequence[Dataset] = (), **options: Unpack[Options]) -> list[Dataset]:
    """Structure set, plan and dose for the images of `ct`."""
    return radiotherapy(images or ct(**options), options)


BESIDE_CT: Final[Mapping[str, Callable[[Sequence[Dataset], Options], list[Dataset]]]] = {
    "sr": lambda images, options: sr(images, **options),
    "seg": lambda images, options: seg(images, **options),
    "rt": lambda images, options: rt(images, **options),
}
