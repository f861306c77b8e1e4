"""The server as a whole: its parts, their order, their lifecycle, and its health."""
