"""The archive: stored files and index, kept in step."""
