"""The section `remote_aes`: the application entities that this server may call."""

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from pacs_server.config.types import AETitle, Host, Seconds, Section, check_remote_port


class RemoteAEConfig(Section):
    """A peer that this server may call; timeouts in seconds."""

    ae_title: AETitle
    host: Host
    port: Annotated[int, AfterValidator(check_remote_port)]
    tls: bool = False
    tls_check_hostname: bool = True
    connect_timeout: Seconds = 10.0
    response_timeout: Seconds = 60.0


def check_unique_titles(remotes: tuple[RemoteAEConfig, ...]) -> tuple[RemoteAEConfig, ...]:
    """The remote AEs, if each has a title of its own. Raises PydanticCustomError."""
    seen: dict[str, int] = {}
    for number, remote in enumerate(remotes):
        first = seen.setdefault(remote.ae_title, number)
        if first != number:
            text = f"{remote.ae_title} is already defined by remote_aes[{first}]"
            raise PydanticCustomError("duplicate", "{text}", {"text": text, "key": f"remote_aes[{number}].ae_title"})
    return remotes
