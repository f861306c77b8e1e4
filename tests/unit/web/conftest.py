from collections.abc import Iterator
from pathlib import Path

import pytest
from restapi import RestAPI


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RestAPI]:
    """The REST API on an empty archive."""
    api = RestAPI(tmp_path)
    yield api
    api.close()
