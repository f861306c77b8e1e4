"""A PACS for the tests of other software: a real server in the process of the test, gone without a trace afterwards.

Nothing is imported until it is asked for, so that the plugin for pytest costs nothing where nobody uses it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacs_server.testing.temporary import TemporaryPacs as TemporaryPacs
    from pacs_server.testing.temporary import temporary_pacs as temporary_pacs

__all__ = ["TemporaryPacs", "temporary_pacs"]


def __getattr__(name: str) -> object:
    """Import what is exported when it is first asked for."""
    if name in __all__:
        from pacs_server.testing import temporary

        return getattr(temporary, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
