"""The section `fetching`: for how long the server tries to fetch what somebody has ordered from a remote."""

from pacs_server.config.types import Live, Seconds, Section


class FetchingConfig(Section):
    """For how long the server tries to fetch what somebody has ordered from a remote; times in seconds."""

    give_up_after: Live[Seconds] = 259_200.0
