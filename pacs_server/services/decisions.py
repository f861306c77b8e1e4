"""The journal of what operators decided about patients: a line for each decision, durable before the index has it.

The stored files keep what was sent, so a rebuilt index learns only from the journal what operators decided since.
"""

import json
from dataclasses import asdict
from datetime import datetime

from pacs_server.errors import StorageUnavailable
from pacs_server.index.decisions import Decision
from pacs_server.storage.archive_files import DecisionLog


class DecisionJournal:
    """The decisions in the log of an archive."""

    def __init__(self, log: DecisionLog) -> None:
        self._log = log
        self.name = log.name

    def read(self) -> list[Decision]:
        """All decisions in their order. Raises StorageUnavailable if they cannot be read or are not in order."""
        return [self._decision(number, line) for number, line in enumerate(self._log.lines(), 1)]

    def append(self, decision: Decision) -> bool:
        """Write a decision durably; False, and nothing is written, if its number is taken.

        The caller sees to it that nobody else appends at the same time. Raises StorageFull, StorageUnavailable.
        """
        values = asdict(decision) | {"at": decision.at.isoformat()}
        line = json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")
        return self._log.append(decision.number, line)

    def take_back(self, decision: Decision) -> None:
        """Remove the last decision, if it is this one. Raises StorageUnavailable."""
        self._log.take_back(decision.number)

    def sync(self) -> None:
        """Make the journal durable, whose writer may have been killed before that; raises as `append`."""
        self._log.sync()

    def _decision(self, number: int, line: bytes) -> Decision:
        try:
            values = json.loads(line)
            at, studies = datetime.fromisoformat(values["at"]), tuple(values["studies"])
            decision = Decision(**values | {"at": at, "studies": studies})
        except (ValueError, TypeError, KeyError) as error:
            raise StorageUnavailable(f"{self.name} line {number} is not a change") from error
        if decision.number != number:
            raise StorageUnavailable(f"{self.name} line {number} is change {decision.number}")
        return decision
