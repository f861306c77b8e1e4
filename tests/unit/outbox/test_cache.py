"""What of the cache may go, by age and size, and never what is still needed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pacs_server.config.sections.polling import CacheConfig
from pacs_server.index.remote_studies import Cached
from pacs_server.outbox.cache import to_drop

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def cached(number: int, hours: float, size: int, needed: float | None = None) -> Cached:
    """A study that was fetched so many hours ago, and is needed in so many."""
    deadline = None if needed is None else NOW + timedelta(hours=needed)
    return Cached(number, "WS1", f"1.{number}", NOW - timedelta(hours=hours), deadline, 1, size)


def wanted(number: int, hours: float, size: int) -> Cached:
    """A study that was fetched so many hours ago, and that waits to be sent or is planned for."""
    return replace(cached(number, hours, size), is_needed=True)


@pytest.mark.parametrize(
    ("studies", "settings", "dropped"),
    [
        ([cached(1, 30, 10), cached(2, 20, 10)], {"ttl": "24h"}, [1]),
        ([cached(1, 24, 10)], {"ttl": "24h"}, []),
        ([cached(1, 3, 10), cached(2, 2, 10), cached(3, 1, 10)], {"max_size": "30B"}, []),
        ([cached(1, 3, 10), cached(2, 2, 10), cached(3, 1, 10)], {"max_size": "29B"}, [1]),
        ([cached(1, 3, 10), cached(2, 2, 10), cached(3, 1, 10)], {"max_size": "10B"}, [1, 2]),
        # What is too old goes first of all, and that may be enough.
        ([cached(1, 30, 10), cached(2, 20, 10), cached(3, 1, 10)], {"ttl": "24h", "max_size": "20B"}, [1]),
        # What an appointment waits for stays, whatever its size; afterwards it goes.
        ([cached(1, 30, 10, needed=1), cached(2, 20, 10)], {"ttl": "1h", "max_size": "1B"}, [2]),
        ([cached(1, 30, 10, needed=0)], {"ttl": "24h"}, [1]),
        # What somebody needs stays as well, and takes room that the others do not have.
        ([wanted(1, 30, 10), cached(2, 20, 10), cached(3, 10, 10)], {"max_size": "20B"}, [2]),
        ([wanted(1, 30, 30), cached(2, 20, 10)], {"ttl": "24h", "max_size": "20B"}, [2]),
        ([wanted(1, 30, 10)], {"ttl": "24h"}, []),
        # The clock was set back.
        ([cached(1, -100, 10)], {"ttl": "1h"}, []),
        ([], {"ttl": "1h", "max_size": "1B"}, []),
    ],
)
def test_what_may_go(studies: list[Cached], settings: dict[str, Any], dropped: list[int]) -> None:
    assert [each.id for each in to_drop(studies, CacheConfig.model_validate(settings), NOW)] == dropped
