"""Store what a temporary server holds from the start: data sets, files, folders and synthetic studies."""

import io
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.part10_stream import Part10Stream
from pacs_server.errors import ConfigError, PacsError
from pacs_server.services.store import StoreRequest, StoreService

SYNTHETIC = "synthetic:"
_PIECE = 1 << 20

Content: TypeAlias = "Dataset | str | PathLike[str] | Iterable[Content]"
"""A data set, a file or folder of DICOM files, `synthetic:ct=2`, or several of these."""


def preload(store: StoreService, contents: Iterable[Content], ae_title: str) -> int:
    """Store all contents and return the number of instances. Raises ConfigError if one of them cannot be stored."""
    count = 0
    for content in contents:
        for found in _expanded(content):
            count += _stored(store, found, ae_title)
    return count


def _expanded(content: Content) -> Iterator[Dataset | Path]:
    if isinstance(content, Dataset):
        yield content
    elif isinstance(content, str) and content.startswith(SYNTHETIC):
        yield from _synthetic(content)
    elif isinstance(content, str | PathLike):
        path = Path(content)
        yield from [path] if not path.is_dir() else sorted(each for each in path.rglob("*") if each.is_file())
    else:
        for each in content:
            yield from _expanded(each)


def _synthetic(content: str) -> Iterator[Dataset]:
    """The data sets of `synthetic:ct=2,mr=1`."""
    from pacs_server.testing import synthetic

    try:
        for study in synthetic.Spec.parse(content.removeprefix(SYNTHETIC)).studies():
            yield from study.instances
    except ValueError as error:
        raise ConfigError(f"studies: {content}: {error}") from error


def _stored(store: StoreService, found: Dataset | Path, ae_title: str) -> int:
    origin = Origin("", ae_title, str(found) if isinstance(found, Path) else "", Door.IMPORT)
    try:
        if isinstance(found, Path):
            return store.store_file(found, origin) is not None
        stream = Part10Stream(_pieces(_encoded(found)))
        head = stream.head
        assert head is not None
        store.store(StoreRequest(*stream.sop_uids(), head.transfer_syntax_uid, origin), stream.data_set())
    except PacsError as error:
        name = found if isinstance(found, Path) else f"data set {found.get('SOPInstanceUID', 'without a UID')}"
        raise ConfigError(f"studies: {name}: {error}") from error
    return 1


def _encoded(data_set: Dataset) -> bytes:
    """A data set as a file. Without File Meta Information it is encoded in Explicit VR Little Endian."""
    meta = getattr(data_set, "file_meta", None)
    written = Dataset(data_set)
    written.file_meta = FileMetaDataset()
    written.file_meta.TransferSyntaxUID = UID(getattr(meta, "TransferSyntaxUID", None) or ExplicitVRLittleEndian)
    buffer = io.BytesIO()
    dcmwrite(buffer, written, enforce_file_format=True)
    return buffer.getvalue()


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
