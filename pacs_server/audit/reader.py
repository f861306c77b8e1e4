"""Reading the audit trail from its files, beside whoever writes to it; what is not signed with the key is left out.

That a line was left out is logged. Whether something is missing, `verify` says.
"""

import logging
from collections.abc import Generator, Iterator
from pathlib import Path

from pacs_server.audit.files import Line, day_files, lines, unavailable
from pacs_server.audit.keys import Key
from pacs_server.audit.record import Position, Record, read_record

_log = logging.getLogger(__name__)


def records_after(
    directory: Path, key: Key, position: Position | None, containing: bytes
) -> Generator[tuple[Record, Position], None, None]:
    """The records behind a position whose lines contain that, the oldest first, each with the position behind it.

    Ends at what is there when it gets there; files pruned meanwhile are stepped over. Raises AuditUnavailable.
    """
    for line in _lines_after(directory, position):
        if containing not in line.data:
            continue
        fault = key.fault("record", line.data)
        if fault is None:
            record = read_record(line.data)
            yield record, Position(line.file, line.end, record.sequence)
        elif not fault.startswith("torn"):  # that one is being written
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
