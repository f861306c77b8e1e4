"""The section `audit`: where the audit trail is kept, what signs it, and where it is sent."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pacs_server.config.types import (
    FilePath,
    Host,
    Live,
    Restart,
    Secret,
    Section,
    check_long_enough,
    check_remote_port,
    empty_is_none,
)


class AuditConfig(Section):
    """The audit trail: where it is kept, the key that signs it, and the repository that it is sent to."""

    enabled: Restart[bool] = True
    directory: Restart[FilePath] = Path("./audit")
    key: Restart[Annotated[Secret, AfterValidator(check_long_enough)]] = None
    retention_years: Live[Annotated[int, Field(ge=1, le=200)] | None] = None
    syslog_host: Restart[Annotated[Host | None, BeforeValidator(empty_is_none)]] = None
    syslog_port: Restart[Annotated[int, AfterValidator(check_remote_port)]] = 6514
    syslog_protocol: Restart[Literal["tls", "udp"]] = "tls"
