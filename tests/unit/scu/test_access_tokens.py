"""Access tokens by client credentials: kept, renewed, asked for once, and never repeated in messages."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pacs_server.errors import RemoteUnreachable
from pacs_server.scu.dicomweb.auth import AccessTokens
from pacs_server.scu.dicomweb.remote import ClientCredentials
from pacs_server.scu.dicomweb.wire import Patience, Wire

CREDENTIALS = ClientCredentials("https://login.example/token", "pacs", "hush", "write")


@dataclass
class Endpoint:
    """A token endpoint and a clock."""

    answer: Mapping[str, Any] = field(default_factory=dict)
    failing: bool = False
    now: float = 1000.0
    asked: int = 0

    def __post_init__(self) -> None:
        self.tokens = AccessTokens(CREDENTIALS, self.ask, clock=lambda: self.now)

    def ask(self, credentials: ClientCredentials) -> Mapping[str, Any]:
        assert credentials is CREDENTIALS
        self.asked += 1
        if self.failing:
            raise RemoteUnreachable("the token endpoint does not answer")
        return {"access_token": f"token-{self.asked}", "token_type": "Bearer", "expires_in": 100} | dict(self.answer)

    def token(self) -> str:
        return self.tokens.headers()["Authorization"]


def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    endpoint = Endpoint()
    assert {endpoint.token() for _ in range(3)} == {"Bearer token-1"}
    endpoint.now += 79
    assert endpoint.token() == "Bearer token-1"
    endpoint.now += 2
    assert endpoint.token() == "Bearer token-2"


def test_a_refused_token_is_renewed_once_for_all() -> None:
    endpoint = Endpoint()
    refused = endpoint.tokens.headers()
    # Two threads had the same token refused.
    assert endpoint.tokens.renew(refused)
    assert endpoint.token() == "Bearer token-2"
    assert endpoint.tokens.renew(refused)
    assert endpoint.token() == "Bearer token-2"
    assert endpoint.asked == 2


def test_one_thread_asks_and_the_others_wait() -> None:
    endpoint = Endpoint()
    asking, go = threading.Event(), threading.Event()
    ask = endpoint.ask

    def slowly(credentials: ClientCredentials) -> Mapping[str, Any]:
        asking.set()
        assert go.wait(60)
        return ask(credentials)

    endpoint.tokens = AccessTokens(CREDENTIALS, slowly, clock=lambda: endpoint.now)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(endpoint.token())) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert asking.wait(60)
    go.set()
    for thread in threads:
        thread.join(60)
    assert (endpoint.asked, found) == (1, ["Bearer token-1"] * 8)


def test_an_endpoint_that_fails_is_left_alone_for_a_moment() -> None:
    endpoint = Endpoint(failing=True)
    for _ in range(5):
        with pytest.raises(RemoteUnreachable, match="does not answer"):
            endpoint.token()
    assert endpoint.asked == 1
    endpoint.failing, endpoint.now = False, endpoint.now + 6
    assert endpoint.token() == "Bearer token-2"


@pytest.mark.parametrize(
    "answer",
    [
        {"access_token": ""},
        {"access_token": None},
        {"access_token": 7},
        {"access_token": "two words"},
        {"access_token": "line\r\nX-Injected: 1"},
        {"access_token": "ümlaut"},
        {"token_type": "mac"},
        {"token_type": None},
    ],
)
def test_answers_without_a_usable_token(answer: dict[str, Any]) -> None:
    with pytest.raises(RemoteUnreachable) as raised:
        Endpoint(answer).token()
    assert "Injected" not in str(raised.value)


@pytest.mark.parametrize("lifetime", [None, "soon", -1, 0, float("inf"), float("nan"), [], 1e300])
def test_lifetimes_that_are_none_are_five_minutes(lifetime: object) -> None:
    endpoint = Endpoint({"expires_in": lifetime, "token_type": "bearer"})
    assert endpoint.token() == "Bearer token-1"
    endpoint.now += 265
    assert endpoint.token() == "Bearer token-1"
    endpoint.now += 10
    assert endpoint.token() == "Bearer token-2"


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(CREDENTIALS)


def test_patience_wears_out_and_is_earned() -> None:
    patience = Patience(10.0)
    assert (patience, patience.left()) == (10.0, 10.0)
    patience.waited(4.0, 1_000_000)
    assert patience.left() == 6.0
    earning = Patience(10.0, least_rate=1000)
    earning.waited(4.0, 2000)
    assert earning.left() == 8.0
    earning.waited(1.0, 1_000_000)
    assert earning.left() == 10.0


def test_all_connections_of_a_remote_share_its_rate() -> None:
    waits: list[float] = []
    wire = Wire(100_000, pause=waits.append)
    assert wire.piece == 100_000
    begun = time.monotonic()
    for _ in range(5):
        wire.spend(100_000)
    assert time.monotonic() - begun < 5
    # The first second's worth is free, and each later one waits for those before it.
    assert [round(wait) for wait in waits] == [1, 2, 3, 4]
    Wire().spend(10**9)
