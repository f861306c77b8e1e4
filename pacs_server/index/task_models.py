"""The table of tasks: background work that the server promised to do, see `index.tasks`."""

from sqlalchemy import Boolean, Column, DateTime, Index, Integer, Table, text

from pacs_server.index.models import Key, Text, metadata

# The conditions of the partial indexes. A query uses such an index only if it says the condition in the same words.
IS_READY = "state = 'ready'"
IS_URGENT = "state = 'ready' AND priority = 'urgent'"
IS_RUNNING = "state = 'running'"
IS_LIVE = "state IN ('ready', 'running')"
IS_DEAD = "state = 'dead'"
IS_OVER = "state IN ('done', 'cancelled')"


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _index(name: str, condition: str, *columns: str, unique: bool = False) -> Index:
    where = text(condition)
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


task = Table(
    "task",
    metadata,
    Column("id", Key, primary_key=True),
    Column("kind", Text, nullable=False),
    # Who the work is done for or with, such as an AE title; the tasks of one target are claimed together.
    _text("target"),
    # urgent, high, medium or low.
    Column("priority", Text, nullable=False),
    # No attempt is made earlier.
    Column("due", DateTime(timezone=True), nullable=False),
    # Due tasks are claimed in this order: `due`, and later by so much as the priority can wait.
    Column("turn", DateTime(timezone=True), nullable=False),
    # ready, running, done, dead or cancelled.
    Column("state", Text, nullable=False),
    # Failed attempts, and the one that succeeded.
    Column("attempts", Integer, nullable=False, server_default="0"),
    # How many owners in a row disappeared while they ran the task.
    Column("lost_leases", Integer, nullable=False, server_default="0"),
    # A task whose attempt fails after this moment is dead.
    Column("deadline", DateTime(timezone=True), nullable=True),
    # The lease of a running task: until when its owner, on this node, has it to itself.
    Column("claimed_until", DateTime(timezone=True), nullable=True),
    _text("owner"),
    _text("node"),
    # The same work was added once more while the task ran, so that it runs once more.
    Column("again", Boolean, nullable=False, server_default=text("false")),
    # At most one task of a key is ready or running.
    Column("dedupe_key", Text, nullable=True),
    # What the handler of this kind needs to know, as a JSON object.
    Column("payload", Text, nullable=False, server_default="{}"),
    # How far the handler has come, as a JSON object for people; empty if it does not say.
    Column("progress", Text, nullable=False, server_default="{}"),
    _text("last_error"),
    Column("created", DateTime(timezone=True), nullable=False),
    # The rule or the caller that made the task.
    _text("created_by"),
    # When the task was done or cancelled.
    Column("finished", DateTime(timezone=True), nullable=True),
    _index("uq_task_dedupe_key", IS_LIVE, "dedupe_key", unique=True),
    _index("ix_task_due", IS_READY, "due"),
    # A claim finds the next task by the first of these, and others of its target by the second.
    _index("ix_task_turn", IS_READY, "turn", "id"),
    _index("ix_task_target", IS_READY, "target", "kind", "turn", "id"),
    _index("ix_task_urgent", IS_URGENT, "turn", "id"),
    _index("ix_task_claimed_until", IS_RUNNING, "claimed_until"),
    _index("ix_task_finished", IS_OVER, "finished"),
    _index("ix_task_dead", IS_DEAD, "kind"),
    Index(None, "dedupe_key"),
    # Operators write numbers down, so none is given twice.
    sqlite_autoincrement=True,
)
