"""The section `access_control`: who may associate, and what each peer may do."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from pacs_server.config.types import AETitle, Count, Live, Network, Section, parse_size

PeerService = Literal["echo", "store", "find", "move", "get", "worklist", "mpps", "commitment"]


class PeerRule(Section):
    """What a peer, or all peers whose AE titles match a pattern, may do, and from which addresses.

    Without `addresses` all addresses are allowed. The names in `certificate` are compared with subject and SAN of the
    peer's certificate. `max_data_rate` is in bytes per second.
    """

    ae_title: AETitle
    addresses: Annotated[tuple[Network, ...], Field(strict=False)] = ()
    allow: Annotated[tuple[PeerService, ...], Field(strict=False)] = get_args(PeerService)
    require_tls: bool = False
    certificate: Annotated[tuple[str, ...], Field(strict=False)] = ()
    move_destinations: Annotated[tuple[AETitle, ...], Field(strict=False)] = ("*",)
    max_associations: Count | None = None
    max_data_rate: Annotated[int, Field(ge=1024, le=2**40), BeforeValidator(parse_size)] | None = None


class AccessControlConfig(Section):
    """Which peers may associate: peers with rules of their own, and patterns of AE titles with * and ?.

    `association_rate` limits the associations per second from one address, `association_burst` those that come at once.
    """

    allowed_ae_titles: Live[Annotated[tuple[AETitle, ...], Field(strict=False)]] = ("*",)
    peers: Live[Annotated[tuple[PeerRule, ...], Field(strict=False)]] = ()
    max_associations_per_ae: Live[Count | None] = None
    association_rate: Live[Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None] = None
    association_burst: Live[Count] = 20

    @model_validator(mode="before")
    @classmethod
    def _peers_close_the_door(cls, data: Any) -> Any:
        # A list of peers means that all other peers are refused, unless allowed_ae_titles says otherwise.
        if isinstance(data, dict) and data.get("peers") and "allowed_ae_titles" not in data:
            return {**data, "allowed_ae_titles": ()}
        return data
