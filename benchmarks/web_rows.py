"""The rows of the table of the HTTP door: what is measured, one function each."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Final
from urllib.parse import quote

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from rle.utils import encode_pixel_data

from benchmarks import client, instances, processes
from benchmarks.client import Association
from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, Template, encode
from benchmarks.web_client import WebClient
from benchmarks.web_peers import WebPeer
from pacs_server.dicom.part10 import encode_head

ROOT: Final = "/dicom-web"
SMALL, LARGE = 64, 512
FRAMES: Final = 60
DICOM: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
OCTETS: Final = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
STUDIES: Final = 400
# Numbers of studies: small ones with five instances each, one CT series, one native and one RLE multi-frame.
SERIES, NATIVE, RLE = 900_000, 901_000, 902_000
SERIES_INSTANCES = 100
# A study that a client stores anew in every round.
FIRST_STORED: Final = 910_000
BIG_FRAMES: Final = 600


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is, and how much one round does; nothing new begins after `limit` seconds."""

    requests: int = 300
    limit: float = 3.0


@dataclass(slots=True)
class WebBench:
    """What a measurement may use."""

    load: Load
    stored: "itertools.count[int]" = field(default_factory=lambda: itertools.count(FIRST_STORED))


def fill(peer: WebPeer) -> None:
    """Store the same images in a peer."""
    with Association(peer.address, [CT_IMAGE_STORAGE]) as association:
        framing = association.framing(CT_IMAGE_STORAGE)
        for study in range(STUDIES):
            _store(association, instances.ct_template(SMALL), study, range(5 * study, 5 * study + 5), framing)
        _store(association, instances.ct_template(LARGE), SERIES, range(SERIES, SERIES + SERIES_INSTANCES), framing)
        _store(association, multiframe(), NATIVE, range(NATIVE, NATIVE + 1), framing)
    with WebClient(peer.web_port) as web:
        content_type, body = stow([(RLELossless, rle_multiframe().patched(RLE, RLE), RLE)])
        web.post(f"{ROOT}/studies", content_type, body)


def _store(association: Association, template: Template, study: int, sops: range, framing: instances.Framing) -> None:
    for writes in instances.store_requests(template, study, sops, framing):
        association.store(writes)


def stow(objects: list[tuple[str, bytes, int]]) -> tuple[str, list[bytes]]:
    """Content type and body of a STOW-RS request with these data sets."""
    boundary = uuid.uuid4().hex
    body: list[bytes] = []
    for syntax, data, sop in objects:
        head = encode_head(CT_IMAGE_STORAGE, instances.sop_uid(sop), syntax, "")
        body += [f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(), head, data]
    body.append(f"\r\n--{boundary}--\r\n".encode())
    return f'multipart/related; type="application/dicom"; boundary={boundary}', body


@cache
def multiframe(frames: int = FRAMES) -> Template:
    """A multi-frame image of 512 x 512 pixels of two bytes, uncompressed."""
    ds = instances.ct(LARGE, LARGE)
    ds.NumberOfFrames = frames
    ds.PixelData = _picture().tobytes() * frames
    return Template(encode(ds, implicit=False))


@cache
def rle_multiframe() -> Template:
    """The same image, compressed by RLE."""
    ds = instances.ct(LARGE, LARGE)
    ds.NumberOfFrames = FRAMES
    ds.PixelData = encapsulate([encode_pixel_data(_picture().tobytes(), ds, "<")] * FRAMES)
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    return Template(encode(ds, implicit=False))


def _picture() -> np.ndarray:
    x, y = np.meshgrid(np.arange(LARGE), np.arange(LARGE))
    picture: np.ndarray = ((x // 8 * 7 + y // 8 * 13) % 4096).astype("<u2")
    return picture


# ------------------------------------------------------------------------------------ paths


def study_path(study: int) -> str:
    """The resource of a study."""
    return f"{ROOT}/studies/{instances.study_uid(study)}"


def series_path(study: int) -> str:
    """The resource of the one series of a study."""
    return f"{study_path(study)}/series/{instances.series_uid(study)}"


def instance_path(study: int, sop: int) -> str:
    """The resource of an instance."""
    return f"{series_path(study)}/instances/{instances.sop_uid(sop)}"


# ------------------------------------------------------------------------------------ measurements

Measure = Callable[[WebBench, WebPeer], float]


@dataclass(frozen=True, slots=True)
class WebRow:
    """One row: what a round measures, in which unit, and how many times as good as Orthanc it is wanted to be."""

    key: str
    title: str
    unit: str
    measure: Measure
    goal: float = 0.0
    lower_is_better: bool = False


def _rate(
    paths: Iterator[str], accept: str = "application/dicom+json", least: int = 100, *, bytes_too: bool = False
) -> Measure:
    """Requests per second over one connection, or megabytes."""

    def measure(bench: WebBench, peer: WebPeer) -> float:
        with WebClient(peer.web_port) as web:
            size = 0

            def ask(path: str) -> int:
                nonlocal size
                reply = web.get(path, accept)
                assert reply.size >= least, path
                size += reply.size
                return 1

            timing = client.repeat(itertools.islice(paths, bench.load.requests), ask, bench.load.limit)
            return size / 1e6 / (timing.ended - timing.began) if bytes_too else timing.rate

    return measure


def _by_name(study: int) -> str:
    # Orthanc finds nothing for a name with an escaped ^.
    return f"{ROOT}/studies?PatientName={quote(instances.patient_name(study), safe='^')}"


def _cycle(make: Callable[[int], str], count: int = STUDIES) -> Iterator[str]:
    return itertools.cycle([make(7 * n % count) for n in range(count)])


def _series_instances(n: int) -> str:
    return instance_path(SERIES, SERIES + n % SERIES_INSTANCES)


def _picture_path(n: int) -> str:
    """No picture is asked for twice: one that is kept would cost nothing."""
    return f"{_series_instances(n)}/rendered?viewport={256 + n % 251},{256 + n % 241}"


def _first_byte(bench: WebBench, peer: WebPeer) -> float:
    def ask(path: str) -> int:
        WebClient(peer.web_port).first_byte(path, DICOM)
        return 1

    timing = client.repeat([study_path(SERIES)] * 20, ask, bench.load.limit)
    return 1000 * sorted(timing.seconds)[len(timing.seconds) // 2]


def _stow(side: int, count: int, *, one_study: bool = False) -> Measure:
    """Objects stored per second, each in a request of its own: each of another patient, or all of one study."""

    def measure(bench: WebBench, peer: WebPeer) -> float:
        template = instances.ct_template(side)
        requests = []
        study = next(bench.stored)
        for _ in range(count):
            number = next(bench.stored)
            data = template.patched(study if one_study else number, number)
            requests.append(stow([(EXPLICIT_VR_LITTLE_ENDIAN, data, number)]))
        with WebClient(peer.web_port) as web:
            post = lambda request: web.post(f"{ROOT}/studies", *request) and 1  # noqa: E731
            return client.repeat(requests, post, bench.load.limit).rate

    return measure


def _memory(send: bool) -> Measure:
    """By how many MiB the server grows at most while 300 MB go in or out."""

    def measure(bench: WebBench, peer: WebPeer) -> float:
        number = next(bench.stored)
        with WebClient(peer.web_port) as web:
            content_type, body = stow(
                [(EXPLICIT_VR_LITTLE_ENDIAN, multiframe(BIG_FRAMES).patched(number, number), number)]
            )
            if send:
                web.post(f"{ROOT}/studies", content_type, body)
            before = processes.resident(peer.pid)
            processes.forget_peaks(peer.pid)
            if send:
                web.get(instance_path(number, number), DICOM)
            else:
                web.post(f"{ROOT}/studies", content_type, body)
            return processes.resident(peer.pid, peak=True) - before

    return measure


WEB_ROWS: Final = (
    WebRow(
        "qido-id",
        "QIDO-RS: a study by Patient ID",
        "1/s",
        _rate(_cycle(lambda n: f"{ROOT}/studies?PatientID={instances.patient_id(n)}")),
        10,
    ),
    WebRow("qido-name", "QIDO-RS: a study by name", "1/s", _rate(_cycle(_by_name)), 10),
    WebRow(
        "qido-page",
        "QIDO-RS: the first 100 studies",
        "1/s",
        _rate(itertools.repeat(f"{ROOT}/studies?limit=100&includefield=all")),
        10,
    ),
    WebRow("qido-all", "QIDO-RS: all studies", "1/s", _rate(itertools.repeat(f"{ROOT}/studies")), 15),
    WebRow(
        "qido-instances",
        "QIDO-RS: the 100 instances of a series",
        "1/s",
        _rate(itertools.repeat(f"{series_path(SERIES)}/instances")),
        20,
    ),
    WebRow(
        "metadata", "metadata of a series of 100", "1/s", _rate(itertools.repeat(f"{series_path(SERIES)}/metadata")), 15
    ),
    WebRow(
        "study",
        "WADO-RS: a study of 100 x 512 KB",
        "MB/s",
        _rate(itertools.repeat(study_path(SERIES)), DICOM, bytes_too=True),
        1.3,
    ),
    WebRow("first-byte", "WADO-RS: the first byte of that study", "ms", _first_byte, 3, lower_is_better=True),
    WebRow("instance", "WADO-RS: single instances of 512 KB", "1/s", _rate(_cycle(_series_instances), DICOM), 5),
    WebRow(
        "frame",
        "WADO-RS: single frames of 512 KB",
        "1/s",
        _rate(_cycle(lambda n: f"{_series_instances(n)}/frames/1"), OCTETS),
        5,
    ),
    WebRow(
        "multiframe",
        "WADO-RS: frames of a multi-frame image",
        "1/s",
        _rate(_cycle(lambda n: f"{instance_path(NATIVE, NATIVE)}/frames/{n % FRAMES + 1}"), OCTETS),
        100,
    ),
    WebRow(
        "rle",
        "WADO-RS: frames of an RLE multi-frame image",
        "1/s",
        _rate(
            _cycle(lambda n: f"{instance_path(RLE, RLE)}/frames/{n % FRAMES + 1}"),
            'multipart/related; type="image/dicom-rle"; transfer-syntax=1.2.840.10008.1.2.5',
        ),
        100,
    ),
    WebRow(
        "rle-decoded",
        "WADO-RS: frames of it, decoded",
        "1/s",
        _rate(
            _cycle(lambda n: f"{instance_path(RLE, RLE)}/frames/{n % FRAMES + 1}"),
            'multipart/related; type="application/octet-stream"',
            2 * LARGE * LARGE,
        ),
        100,
    ),
    WebRow(
        "rendered",
        "WADO-RS: rendered as JPEG",
        "1/s",
        _rate(map(_picture_path, itertools.count()), "image/jpeg"),
        2,
    ),
    WebRow("stow-large", "STOW-RS: 512 KB", "1/s", _stow(LARGE, 100), 1.5),
    WebRow("stow-small", "STOW-RS: 10 KB", "1/s", _stow(SMALL, 300), 1.5),
    WebRow("stow-study", "STOW-RS: 10 KB, all of one study", "1/s", _stow(SMALL, 300, one_study=True)),
    WebRow("memory-out", "memory for 300 MB out", "MiB", _memory(send=True), lower_is_better=True),
    WebRow("memory-in", "memory for 300 MB in", "MiB", _memory(send=False), lower_is_better=True),
)
