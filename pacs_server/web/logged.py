"""What the log says of a request: UIDs, but no names and IDs of patients, which may stand in paths and parameters."""

import re
from typing import Final

from starlette.types import Scope

DOORS: Final = ("dicom-web", "wado", "api")
"""The beginnings of paths that metrics and the log tell apart."""
_LONGEST_PATH: Final = 200
_UID: Final = re.compile(r"[0-2](\.\d+)+")


def logged_path(scope: Scope) -> str:
    """The path without parameters, and with the name of a part in the place of what is no UID."""
    path: str = scope["path"]
    if "endpoint" not in scope:
        # Nobody knows what it means.
        first, _, rest = path[1:].partition("/")
        return f"/{first if first in DOORS else ''}{'/...' if rest else ''}"
    for name, value in scope.get("path_params", {}).items():
        if value and not _UID.fullmatch(str(value)):
            path = path.replace(str(value), f"{{{name}}}")
    return path[:_LONGEST_PATH]
