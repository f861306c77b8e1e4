"""A DICOM archive server: store, query and retrieve over the network, from one command."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacs_server.app.server import PacsServer as PacsServer

__version__ = "0.1.0"
__all__ = ["PacsServer", "__version__"]


def __getattr__(name: str) -> object:
    """Import `PacsServer` when it is first asked for: the command line starts faster without it."""
    if name == "PacsServer":
        from pacs_server.app.server import PacsServer

        return PacsServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
