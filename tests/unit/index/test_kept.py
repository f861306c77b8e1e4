"""The connection that is kept for the writes of which there are most."""

from contextlib import closing

import pytest
from sqlalchemy import text

from pacs_server.errors import IndexUnavailable
from pacs_server.index.database import Database
from pacs_server.index.prepared import Raw


def test_a_connection_that_could_not_be_made_whole_is_not_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Database(database_url)) as database:

        def fail(*_: object) -> None:
            raise database.engine.dialect.loaded_dbapi.OperationalError("no cursor")

        with monkeypatch.context() as patch:
            patch.setattr(Raw, "__init__", fail)
            with pytest.raises(IndexUnavailable, match="no cursor"):
                database.write(lambda raw: None)
        assert database.write(lambda raw: raw.connection.scalar(text("SELECT 7"))) == 7
