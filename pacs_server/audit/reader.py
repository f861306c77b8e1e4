"""Read the audit trail from its files, while others may write to it.

Lines that the key has not signed are left out and logged. Whether records are missing is for `verify` to find out.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from pacs_server.audit.files import Line, day_files, lines, unavailable
from pacs_server.audit.record import Position, Record, read_record
from pacs_server.audit.signing import SigningKey

_log = logging.getLogger(__name__)


# Whether a line is worth reading.
Promising = Callable[[bytes], bool]


def records_after(
    directory: Path, key: SigningKey, position: Position | None, promising: Promising | None
) -> Generator[tuple[Record, Position], None, None]:
    """The records behind a position whose lines are `promising`, the oldest first, each with its own position.

    Ends with the last record that is written by then. Skips files that are pruned meanwhile. Raises AuditUnavailable.
    """
    for line in _lines_after(directory, position):
        if promising is not None and not promising(line.data):
            continue
        record = record_in(line, key)
        if record is not None:
            yield record, Position(line.file, line.end, record.sequence)


def record_in(line: Line, key: SigningKey) -> Record | None:
    """The record that a line holds; None if the key has not signed it."""
    fault = key.fault("record", line.data)
    if fault is None:
        return read_record(line.data)
    if not fault.startswith("torn"):  # an incomplete line is being written
        fields = {"file": line.file, "offset": line.end - len(line.data), "reason": fault}
        _log.error("audit record cannot be used", extra=fields)
    return None


def _lines_after(directory: Path, position: Position | None) -> Iterator[Line]:
    for name in day_files(directory):
        if position is not None and name < position.file:
            continue
        start = position.offset if position is not None and name == position.file else 0
        with unavailable(f"read {name}"):
            try:
                yield from lines(directory, name, start=start)
            except FileNotFoundError:
                continue
