"""Read the audit trail from its files, while others may write to it.

Lines that the key has not signed are left out and logged. Whether records are missing is for `verify` to find out.
"""

import logging
from collections.abc import Generator, Iterator
from pathlib import Path

from pacs_server.audit.files import Line, day_files, lines, unavailable
from pacs_server.audit.record import Position, Record, read_record
from pacs_server.audit.signing import SigningKey

_log = logging.getLogger(__name__)


def records_after(
    directory: Path, key: SigningKey, position: Position | None, containing: bytes
) -> Generator[tuple[Record, Position], None, None]:
    """The records behind a position whose lines contain `containing`, the oldest first, each with its own position.

    Ends with the last record that is written by then. Skips files that are pruned meanwhile. Raises AuditUnavailable.
    """
    for line in _lines_after(directory, position):
        if containing not in line.data:
            continue
        fault = key.fault("record", line.data)
        if fault is None:
            record = read_record(line.data)
            yield record, Position(line.file, line.end, record.sequence)
        elif not fault.startswith("torn"):  # an incomplete line is being written
            fields = {"file": line.file, "offset": line.end - len(line.data), "reason": fault}
            _log.error("audit record cannot be used", extra=fields)


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
