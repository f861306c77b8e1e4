"""Reads a DICOMDIR with pydicom, which checks that its records lead to all files and to none that is not there."""

from pathlib import Path

from pydicom.fileset import FileSet


def listed(directory: Path) -> dict[str, tuple[str, str]]:
    """What the DICOMDIR in a directory leads to: path and transfer syntax by SOP Instance UID."""
    files = FileSet(directory / "DICOMDIR")
    try:
        return {
            str(each.SOPInstanceUID): (
                str(Path(each.path).relative_to(directory)),
                str(each.ReferencedTransferSyntaxUIDInFile),
            )
            for each in files
        }
    finally:
        files._stage["t"].cleanup()
