"""Anchors: a file with one signed line for each day that is over, which names its first and its last record."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pacs_server.audit.files import ANCHORS, create, day_file, last_line, lines, unavailable
from pacs_server.audit.record import Mark
from pacs_server.audit.signing import SigningKey, fields_of
from pacs_server.errors import AuditUnavailable


@dataclass(frozen=True, slots=True)
class Anchor:
    """The records of one day file: the sequence number of the first one, and the last one."""

    day: date
    first: int
    last: Mark

    @property
    def file(self) -> str:
        """The name of the day file."""
        return day_file(self.day)


def read_anchor(line: bytes) -> Anchor:
    """The anchor in a line; the MAC of the line is not checked. Raises ValueError."""
    fields = fields_of(line)
    try:
        return Anchor(date.fromisoformat(fields["day"]), int(fields["first"]), Mark(fields["last"], fields["end"]))
    except (KeyError, TypeError) as error:
        raise ValueError("no anchor") from error


def anchors_in(directory: Path) -> Iterator[Anchor]:
    """All anchors, the oldest first; raises AuditUnavailable."""
    with unavailable(f"read {ANCHORS}"):
        try:
            for line in lines(directory, ANCHORS):
                yield read_anchor(line.data)
        except FileNotFoundError:
            return
        except ValueError as error:
            raise AuditUnavailable(f"the audit trail has an anchor in {ANCHORS} that cannot be read") from error


def last_anchor(directory: Path, key: SigningKey) -> Anchor | None:
    """The newest anchor, None if there is none or the key has not signed it; raises OSError."""
    try:
        line, _ = last_line(directory / ANCHORS)
    except FileNotFoundError:
        return None
    return read_anchor(line) if key.fault("anchor", line) is None else None


def append_anchor(directory: Path, key: SigningKey, anchor: Anchor) -> None:
    """Append an anchor and sync the file, but not its directory; raises OSError."""
    line, _ = key.sign(
        "anchor",
        {"day": anchor.day.isoformat(), "first": anchor.first, "last": anchor.last.sequence, "end": anchor.last.mac},
    )
    path = directory / ANCHORS
    descriptor = create(path, os.O_WRONLY | os.O_APPEND)
    try:
        # A crash may have left an incomplete line.
        os.ftruncate(descriptor, last_line(path)[1])
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
