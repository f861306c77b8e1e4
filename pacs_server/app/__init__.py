"""The server as a whole: assembly, lifecycle, ports, health."""
