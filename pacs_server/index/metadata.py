"""Kept metadata of instances: written in batches, read in the order that a caller asks for."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, bindparam, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.index.archive_models import instance_metadata as table
from pacs_server.index.database import Database
from pacs_server.index.feed import Effect
from pacs_server.index.instances import WITH_UIDS, StoredInstance, stored_of
from pacs_server.index.models import instance

# Rows of another format are as good as none.
FORMAT: Final = 1
# So many instances are looked up at a time, and so many bytes of their rows are in memory at a time, or one row.
_CHUNK: Final = 200
_TOGETHER: Final = 1024 * 1024


class Kept(NamedTuple):
    """What is kept of an instance: its compressed metadata, and the map of its frames if it is an image."""

    content: bytes
    frames: bytes | None


class MetadataIndex:
    """The kept metadata of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        new = (sqlite.insert if database.is_sqlite else postgresql.insert)(table)
        names = ("sop_instance_uid", "digest", "version")
        condition = [instance.c[name] == bindparam(f"_{name}") for name in names]
        columns = ("format", "size", "content", "frames")
        values = [literal(FORMAT), *(bindparam(f"_{name}", type_=table.c[name].type) for name in columns[1:])]
        # An instance that is being deleted is skipped: nobody waits here for the transaction that does it.
        rows = select(instance.c.id, *values).where(*condition)
        rows = rows.with_for_update(read=True, key_share=True, skip_locked=True)
        keep = new.from_select(["instance_fk", *columns], rows)
        self._keep = keep.on_conflict_do_update(
            index_elements=["instance_fk"],
            set_={name: keep.excluded[name] for name in columns},
            where=table.c.format != FORMAT,
        )

    def kept(self, instances: Sequence[StoredInstance]) -> Iterator[bytes | None]:
        """The compressed metadata of each of these instances, in their order; None for those whose are not kept."""
        for start in range(0, len(instances), _CHUNK):
            some = instances[start : start + _CHUNK]
            sizes = dict(self._rows([each.uids.sop for each in some], "size"))
            together: list[StoredInstance] = []
            size = 0
            for each in some:
                together.append(each)
                size += sizes.get(each.uids.sop, 0)
                if size > _TOGETHER:
                    yield from self._contents(together)
                    together, size = [], 0
            if together:
                yield from self._contents(together)

    def unkept(self, ids: Sequence[int]) -> list[StoredInstance]:
        """The instances of these ids that are there, and whose metadata are not kept."""
        kept = select(table.c.instance_fk).where(table.c.instance_fk == instance.c.id, table.c.format == FORMAT)
        statement = WITH_UIDS.where(instance.c.id.in_(ids), ~kept.exists()).order_by(instance.c.id)
        with self._database.connect() as connection:
            return [stored_of(row) for row in connection.execute(statement).mappings()]

    def frames(self, stored: StoredInstance) -> bytes | None:
        """The kept map of the frames of an instance; None if there is none."""
        return dict(self._rows([stored.uids.sop], "frames")).get(stored.uids.sop)

    def keeping(self, new: Sequence[tuple[StoredInstance, Kept]]) -> Effect:
        """The effect that keeps what was read of these instances, unless they are gone or replaced meanwhile."""
        rows = [
            {
                "_sop_instance_uid": stored.uids.sop,
                "_digest": stored.digest,
                "_version": stored.version,
                "_size": len(kept.content),
                "_content": kept.content,
                "_frames": kept.frames,
            }
            for stored, kept in new
        ]

        def keep(connection: Connection) -> None:
            if rows:
                connection.execute(self._keep, rows)

        return keep

    def keep(self, new: Sequence[tuple[StoredInstance, Kept]]) -> None:
        """Keep what was read of these instances, unless they are gone or replaced meanwhile."""
        with self._database.begin() as connection:
            self.keeping(new)(connection)

    def _contents(self, instances: Sequence[StoredInstance]) -> Iterator[bytes | None]:
        found = dict(self._rows([each.uids.sop for each in instances], "content"))
        yield from (found.get(each.uids.sop) for each in instances)

    def _rows(self, uids: Sequence[str], column: str) -> list[tuple[Any, ...]]:
        places = ", ".join("?" * len(uids))
        # The names come from this file, and the values are bound.
        query = (
            f"SELECT instance.sop_instance_uid, instance_metadata.{column} FROM instance "  # noqa: S608
            f"JOIN instance_metadata ON instance_metadata.instance_fk = instance.id "
            f"WHERE instance_metadata.format = {FORMAT} AND instance.sop_instance_uid IN ({places})"
        )
        with self._database.rows(query, uids, few=True) as rows:
            return list(rows)
