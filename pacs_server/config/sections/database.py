"""The section `database`: where the index is."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pacs_server.config.types import FilePath, Restart, Section, check_url, empty_is_none


class DatabaseConfig(Section):
    """The index: a SQLite file, or another database by its URL."""

    path: Restart[FilePath] = Path("./pacs.db")
    url: Restart[
        Annotated[str | None, AfterValidator(check_url), BeforeValidator(empty_is_none), Field(repr=False)]
    ] = None
    wal_mode: Restart[bool] = True
    auto_migrate: Restart[bool] = True

    @model_validator(mode="after")
    def _one_database(self) -> "DatabaseConfig":
        if self.url is not None and "path" in self.model_fields_set:
            raise PydanticCustomError("both", "database.path is given too, keep one of them", {"key": "database.url"})
        if self.url is None and "?" in str(self.path):
            raise PydanticCustomError("path", "the path may not hold a question mark", {"key": "database.path"})
        return self

    @property
    def sqlalchemy_url(self) -> str:
        """The URL for SQLAlchemy; may hold a password."""
        return self.url if self.url is not None else f"sqlite:///{self.path}"

    @property
    def name(self) -> str:
        """The path of the file, or the URL without passwords, for people and logs."""
        return str(self.path) if self.url is None else self.masked_url

    @property
    def masked_url(self) -> str:
        """The URL with every password replaced by ***, for people and logs."""
        hidden = re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", self.sqlalchemy_url)
        return re.sub(r"([?&][^=&]*password=)[^&]*", r"\1***", hidden, flags=re.IGNORECASE)
