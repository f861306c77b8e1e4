"""The section `tls`: DICOM over TLS."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from pacs_server.config.types import FilePath, Live, OptionalPath, Port, Restart, Secret, Section


class TLSConfig(Section):
    """DICOM over TLS: on `port`, beside the plain port, or without `port` on server.port, instead of plain DICOM."""

    enabled: Restart[bool] = False
    port: Restart[Port | None] = None
    cert_path: Live[FilePath] = Path("./certs/server.crt")
    key_path: Live[FilePath] = Path("./certs/server.key")
    key_password: Live[Secret] = None
    ca_path: Live[OptionalPath] = None
    crl_path: Live[OptionalPath] = None
    require_client_cert: Live[bool] = False
    min_version: Live[Literal["1.2", "1.3"]] = "1.2"

    @model_validator(mode="after")
    def _an_authority_to_check_against(self) -> "TLSConfig":
        for key, value in (("require_client_cert", self.require_client_cert), ("crl_path", self.crl_path)):
            if value and self.ca_path is None:
                raise PydanticCustomError("ca", "needs tls.ca_path as well", {"key": f"tls.{key}"})
        return self
