"""The section `worklist`: which items a station finds, and where items come from."""

from pacs_server.config.types import Host, Live, OptionalPath, Port, Restart, Seconds, Section


class WorklistConfig(Section):
    """The modality worklist and where its items come from. folder_interval is in seconds; no port means off."""

    only_own_station: Live[bool] = False
    discontinued_returns: Live[bool] = True
    folder: Restart[OptionalPath] = None
    folder_interval: Restart[Seconds] = 2.0
    hl7_host: Restart[Host] = "127.0.0.1"
    hl7_port: Restart[Port | None] = None
