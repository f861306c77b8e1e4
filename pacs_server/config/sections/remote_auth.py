"""How this server proves at a DICOMweb remote who it is: a part of the section `remote_aes`."""

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

from pacs_server.config.types import OptionalPath, Section, check_http_url

# The keys of each method; whoever gives one of a method has to give all.
_METHODS: Final = (
    ("bearer_file",),
    ("user", "password_file"),
    ("header", "key_file"),
    ("token_url", "client_id", "client_secret_file"),
)
# RFC 9110 5.6.2: the name of a header is a token.
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OUR_HEADERS: Final = (
    "accept", "accept-encoding", "connection", "content-length", "content-type", "host", "te", "transfer-encoding",
    "upgrade", "user-agent",
)  # fmt: skip


class RemoteAuthConfig(Section):
    """One of: a bearer token, user and password, an API key in a header, OAuth2 client credentials.

    A client certificate and authorities for the remote's own may come with each of them, or alone. All secrets are in
    files, which are read at the start and at each reload.
    """

    bearer_file: OptionalPath = None
    user: str = ""
    password_file: OptionalPath = None
    header: str = ""
    key_file: OptionalPath = None
    token_url: Annotated[str, AfterValidator(check_http_url)] = ""
    client_id: str = ""
    client_secret_file: OptionalPath = None
    scope: str = ""
    cert_path: OptionalPath = None
    key_path: OptionalPath = None
    ca_path: OptionalPath = None

    @property
    def secret(self) -> tuple[str, Path] | None:
        """The key that names the file with the secret, and the file; None if there is no secret."""
        keys = ("bearer_file", "password_file", "key_file", "client_secret_file")
        return next(((key, file) for key in keys if (file := getattr(self, key)) is not None), None)

    def problem(self) -> tuple[str, str] | None:
        """The key that is wrong and what is wrong with it, None if all is well."""
        begun = [keys for keys in _METHODS if any(getattr(self, key) for key in keys)]
        groups = [*begun, ("cert_path", "key_path")] if self.cert_path or self.key_path else begun
        for keys in groups:
            missing = next((key for key in keys if not getattr(self, key)), None)
            if missing is not None:
                given = next(key for key in keys if getattr(self, key))
                return missing, f"is needed with {given}"
        if len(begun) > 1:
            return begun[1][0], f"is a second way to log in, besides {begun[0][0]}: choose one"
        if self.scope and not self.token_url:
            return "scope", "is for token_url only"
        if ":" in self.user:
            # RFC 7617 2: the colon ends the name.
            return "user", "cannot have a colon"
        if self.header and (not _HEADER.fullmatch(self.header) or self.header.lower() in _OUR_HEADERS):
            return "header", f"{self.header[:40]!r} is no header for an API key"
        return None if groups or self.ca_path else ("", "names no way to log in")
