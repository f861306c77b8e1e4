"""Pictures are kept within a bound, and one image stands for many instances."""

from collections.abc import Iterator
from io import BytesIO

import datasets
import numpy as np
import pytest
from PIL import Image

from pacs_server.dicom.lut import Window
from pacs_server.dicom.picture import Appearance
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import FrameNotFound, TooLarge
from pacs_server.index.instances import StoredInstance
from pacs_server.services import rendering
from pacs_server.services.frames import FrameService
from pacs_server.services.rendering import RenderingService

CT, REPORT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.22"
SYNTAX = "1.2.840.10008.1.2.1"
PNG = Appearance("image/png")


class Retrieve:
    """Opens data sets by the SOP Instance UID, and counts how often."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.opened: list[str] = []
        self.closed = 0
        self.current = b""

    def add(self, sop: str, sop_class: str = CT, *, frames: int = 1, rows: int = 8) -> StoredInstance:
        ds = datasets.make_ct(rows=rows, columns=8, NumberOfFrames=frames)
        ds.PixelData = np.random.default_rng(8).integers(0, 4096, rows * 8 * frames).astype("<u2").tobytes()
        if sop_class != CT:
            del ds.PixelData
        self.data[sop] = datasets.encoded(ds)
        return StoredInstance(InstanceUIDs("1", "2", sop), sop_class, SYNTAX, sop, 0, len(self.data[sop]), sop, 0)

    def open(self, instance: StoredInstance) -> "Retrieve":
        self.opened.append(instance.uids.sop)
        self.current = self.data[instance.uids.sop]
        return self

    @property
    def size(self) -> int:
        return len(self.current)

    def read(self, offset: int, length: int) -> bytes:
        return self.current[offset : offset + length]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def retrieve() -> Iterator[Retrieve]:
    retrieve = Retrieve()
    yield retrieve
    assert retrieve.closed == len(retrieve.opened)


def service(retrieve: Retrieve, **options: int) -> RenderingService:
    return RenderingService(FrameService(retrieve), **options)  # type: ignore[arg-type]


def test_a_picture_is_made_once_for_each_way_to_ask_for_it(retrieve: Retrieve) -> None:
    instance, pictures = retrieve.add("1"), service(retrieve)
    made = {pictures.picture(instance, 1, PNG) for _ in range(3)}
    assert (len(made), len(retrieve.opened)) == (1, 1)
    made.add(pictures.picture(instance, 1, PNG, Window(10, 5)))
    made.add(pictures.picture(instance, 1, Appearance("image/png", width=4)))
    made.add(pictures.picture(instance, 1, Appearance("image/jpeg")))
    assert (len(made), len(retrieve.opened)) == (4, 4)


def test_kept_pictures_are_bounded_and_those_used_last_stay(retrieve: Retrieve) -> None:
    instances = [retrieve.add(str(n)) for n in range(3)]
    size = len(service(retrieve).picture(instances[0], 1, PNG))
    pictures = service(retrieve, keep=5 * size // 2)
    for n in (0, 1, 0, 2):
        pictures.picture(instances[n], 1, PNG)
    retrieve.opened.clear()
    retrieve.closed = 0
    pictures.picture(instances[0], 1, PNG)
    pictures.picture(instances[2], 1, PNG)
    assert retrieve.opened == []
    pictures.picture(instances[1], 1, PNG)
    assert retrieve.opened == ["1"]


def test_a_picture_that_is_larger_than_all_that_is_kept_is_not_kept(retrieve: Retrieve) -> None:
    instance, pictures = retrieve.add("1"), service(retrieve, keep=10)
    assert pictures.picture(instance, 1, PNG) == pictures.picture(instance, 1, PNG)
    assert len(retrieve.opened) == 2


def test_the_middle_frame_stands_for_a_multi_frame_image(retrieve: Retrieve) -> None:
    instance, pictures = retrieve.add("1", frames=5), service(retrieve)
    assert pictures.picture(instance, None, PNG) == pictures.picture(instance, 3, PNG)
    with pytest.raises(FrameNotFound):
        pictures.picture(instance, 6, PNG)


def test_the_image_in_the_middle_stands_for_a_series(retrieve: Retrieve) -> None:
    instances = [retrieve.add(f"image {n}") for n in range(5)]
    reports = [retrieve.add(f"report {n}", REPORT) for n in range(5)]
    assert service(retrieve).representative([*instances, *reports]) == instances[2]
    assert service(retrieve).representative([reports[0], instances[0]]) == instances[0]
    with pytest.raises(FrameNotFound):
        service(retrieve).representative(reports)
    with pytest.raises(FrameNotFound):
        service(retrieve).representative([])


def test_only_a_few_instances_are_tried(retrieve: Retrieve) -> None:
    reports = [retrieve.add(f"report {n}", REPORT) for n in range(100)]
    with pytest.raises(FrameNotFound):
        service(retrieve).representative(reports)
    assert len(retrieve.opened) <= 10


def test_huge_images_and_animations_are_refused(retrieve: Retrieve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_MAX_PIXELS", 100)
    large, many = retrieve.add("1", rows=20), retrieve.add("2", frames=3)
    with pytest.raises(TooLarge):
        service(retrieve).picture(large, 1, PNG)
    with pytest.raises(TooLarge):
        service(retrieve).animation(many, PNG)
    assert service(retrieve).picture(many, 1, PNG)


def test_an_animation_has_all_frames(retrieve: Retrieve) -> None:
    data = service(retrieve).animation(retrieve.add("1", frames=4), Appearance("image/gif", width=4))
    image = Image.open(BytesIO(data))
    assert (image.n_frames, image.size, image.info["duration"]) == (4, (4, 4), 100)
