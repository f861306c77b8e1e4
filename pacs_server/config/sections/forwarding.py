"""The section `forwarding`: when what could not be sent is tried again, and when a remote is left alone for a while."""

from typing import Annotated

from pydantic import Field

from pacs_server.config.types import Live, Seconds, Section


class ForwardingConfig(Section):
    """When what could not be sent is tried again, and when a remote is left alone for a while; times in seconds."""

    retry_first: Live[Seconds] = 30.0
    retry_max: Live[Seconds] = 1800.0
    give_up_after: Live[Seconds] = 259_200.0
    breaker_failures: Live[Annotated[int, Field(ge=1, le=1000)]] = 3
    breaker_first: Live[Seconds] = 30.0
    breaker_max: Live[Seconds] = 600.0
