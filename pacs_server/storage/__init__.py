"""Bytes by key: where instances lie as files."""
