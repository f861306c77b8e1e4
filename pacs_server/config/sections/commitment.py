"""The section `commitment`: when storage commitment reports are sent, and for how long they are tried."""

from pacs_server.config.types import Live, Seconds, Section


class CommitmentConfig(Section):
    """When storage commitment reports are sent, and for how long they are tried; times in seconds."""

    retry_first: Live[Seconds] = 10.0
    retry_max: Live[Seconds] = 3600.0
    give_up_after: Live[Seconds] = 259_200.0
    same_association: Live[bool] = True
