"""The section `user_identity`: user names and passwords at association."""

from pathlib import Path
from typing import Literal

from pacs_server.config.types import FilePath, Live, Section


class UserIdentityConfig(Section):
    """User names and passwords at association (PS3.7 D.3.3.7)."""

    mode: Live[Literal["off", "optional", "required"]] = "off"
    users_path: Live[FilePath] = Path("./users")
