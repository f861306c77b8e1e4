"""The section `server`: the DICOM port, and what one peer may ask of it."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from pacs_server.config.types import AETitle, Count, Host, Live, Port, Restart, Seconds, Section


class ServerConfig(Section):
    """Where this AE listens, and the limits for peers; timeouts in seconds."""

    ae_title: Live[AETitle] = "PACS_SERVER"
    host: Restart[Host] = "127.0.0.1"
    port: Restart[Port] = 11112
    max_associations: Live[Count] = 50
    idle_timeout: Live[Seconds] = 60.0
    max_pdu_size: Live[Annotated[int, Field(ge=4096, le=1_048_576)]] = 131072
    check_called_ae_title: Live[bool] = False
    shutdown_timeout: Live[Seconds] = 30.0
    association_timeout: Live[Seconds] = 30.0
    network_timeout: Live[Seconds] = 30.0
    message_timeout: Live[Seconds] = 300.0
    max_connections: Live[Count] = 200
    max_connections_per_address: Live[Count] = 100

    @model_validator(mode="before")
    @classmethod
    def _room_for_associations(cls, data: Any) -> Any:
        # If only max_associations is raised, the default of max_connections must not get in the way.
        if isinstance(data, dict) and "max_connections" not in data:
            wanted = data.get("max_associations")
            if isinstance(wanted, int) and wanted > 200:
                return {**data, "max_connections": wanted}
        return data
