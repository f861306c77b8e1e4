"""What an instance holds that is shown as it is: a document (PDF, CDA, 3D models) or a video (PS3.18 8.7.4)."""

from typing import Final

from pacs_server.dicom.documents import find_document
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.frames import find_codestream
from pacs_server.dicom.report import html_of
from pacs_server.errors import TooLarge
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.closing import Closing
from pacs_server.services.frames import plain
from pacs_server.services.retrieve import RetrieveService

# PS3.3 A.45, A.85, A.86: what instances of these SOP classes hold.
_DOCUMENTS: Final = {
    "1.2.840.10008.5.1.4.1.1.104.1": "application/pdf",
    "1.2.840.10008.5.1.4.1.1.104.2": "text/xml",
    "1.2.840.10008.5.1.4.1.1.104.3": "model/stl",
    "1.2.840.10008.5.1.4.1.1.104.4": "model/obj",
    "1.2.840.10008.5.1.4.1.1.104.5": "model/mtl",
}
_REPORTS: Final = "1.2.840.10008.5.1.4.1.1.88."
_LARGEST_REPORT: Final = 8 << 20
_VIDEO: Final = {
    **{f"1.2.840.10008.1.2.4.{n}": "video/mpeg" for n in ("100", "100.1", "101", "101.1")},
    **{f"1.2.840.10008.1.2.4.{n}{part}": "video/mp4" for n in range(102, 107) for part in ("", ".1")},
    **{f"1.2.840.10008.1.2.4.{n}": "video/h265" for n in (107, 108)},
}


def document_type(instance: StoredInstance) -> str | None:
    """The media type of what the instance holds; None if it is something else, such as an image."""
    return _VIDEO.get(instance.transfer_syntax_uid) or _DOCUMENTS.get(instance.sop_class_uid)


def is_report(instance: StoredInstance) -> bool:
    """Whether the instance is a structured report (PS3.3 A.35)."""
    return instance.sop_class_uid.startswith(_REPORTS)


def report_of(retrieve: RetrieveService, instance: StoredInstance) -> str:
    """A structured report as HTML. Raises TranscodeError, TooLarge, StorageUnavailable."""
    if instance.size > _LARGEST_REPORT:
        raise TooLarge("the report is too large to be shown")
    source = retrieve.open(instance)
    with source:
        return html_of(DataSetBytes(source.read, source.size, instance.transfer_syntax_uid))


class Document(Closing):
    """The document or video of an instance, open to be read; its user closes it. `ranges` are where it lies."""

    def __init__(self, retrieve: RetrieveService, instance: StoredInstance) -> None:
        """Open it. Raises FrameNotFound or TranscodeError if it is not there, StorageUnavailable."""
        syntax = instance.transfer_syntax_uid
        self.source = plain(retrieve.open(instance), syntax)
        try:
            if syntax in _VIDEO:
                self.ranges = find_codestream(self.source, syntax).ranges(self.source, 1)
            else:
                self.ranges = [find_document(self.source, syntax)]
        except BaseException:
            self.source.close()
            raise
        self.size = sum(length for _, length in self.ranges)

    def close(self) -> None:
        """Close the instance."""
        self.source.close()
