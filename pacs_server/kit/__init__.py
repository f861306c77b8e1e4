"""Tools that any other package may use: logs, metrics, periodic threads, private files. Imports no other package."""
