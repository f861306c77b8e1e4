"""Alembic's environment: runs the migrations on the connection that `Database.migrate` brings."""

from alembic import context

from pacs_server.index.workflow_models import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
