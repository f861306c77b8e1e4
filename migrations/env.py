"""The environment of Alembic: runs the migrations on the connection that `Database.migrate` passes."""

from alembic import context

from pacs_server.index import archive_models, outgoing_models, task_models, workflow_models

# All tables are in one `MetaData`. Importing the modules adds the tables to it.
assert archive_models.metadata is workflow_models.metadata is task_models.metadata is outgoing_models.metadata
context.configure(connection=context.config.attributes["connection"], target_metadata=archive_models.metadata)
with context.begin_transaction():
    context.run_migrations()
