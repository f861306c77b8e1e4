"""Requests to one DICOMweb remote and their answers, bounded in time and size; errors are those of `errors.py`.

Answers are read as they are sent: no coding is accepted, so that none can grow in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import count
from typing import Final, Self
from urllib.parse import quote, urlencode

import httpcore2 as httpcore
import httpx2 as httpx

from pacs_server import __version__
from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable
from pacs_server.kit.closing import Closing
from pacs_server.kit.media_types import JSON
from pacs_server.scu.dicomweb.auth import Login
from pacs_server.scu.dicomweb.remote import DICOMwebRemote
from pacs_server.scu.dicomweb.statuses import refusal
from pacs_server.scu.dicomweb.wire import FAILURES, LEAST_RATE, Patience, Transport, Wire

# What a remote tells in JSON or XML may have so many bytes.
_MOST_BYTES: Final = 32 * 1024 * 1024
_MOST_REDIRECTS: Final = 3


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request: its media type, its length in bytes, and its bytes, which can be had again."""

    media_type: str
    length: int
    pieces: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Document:
    """A short answer, read as a whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class DICOMwebClient(Closing):
    """Asks one remote; may be shared by all threads, each of which has a connection of its own while it asks."""

    def __init__(self, remote: DICOMwebRemote, login: Login) -> None:
        self.remote = remote
        self._login = login
        self._base = remote.url.rstrip("/")
        self._wire = Wire(remote.rate)
        self._numbers = count(1)
        self._http = httpx.Client(
            transport=Transport(self._wire, remote.tls, remote.max_associations),
            trust_env=False,
            follow_redirects=False,
            # No remote needs cookies, and they would add up.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"User-Agent": f"pacs-server/{__version__}", "Accept-Encoding": "identity"},
        )

    @classmethod
    def of(cls, remote: DICOMwebRemote) -> Self:
        """A client that logs in as the remote says."""
        from pacs_server.scu.dicomweb.auth import login_of

        return cls(remote, login_of(remote))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def kill(self) -> None:
        """Cut all connections, also those to come; called from another thread when the server stops."""
        self._wire.kill()

    def label(self, path: str) -> str:
        """What the note of a delivery says of the next request."""
        return f"POST {self._base}{path} #{next(self._numbers)}"

    def document(
        self, method: str, path: str, *, accept: str = JSON, parameters: Sequence[tuple[str, str]] = (),
        content: Content | None = None,
    ) -> Document:  # fmt: skip
        """Send a request and return the whole answer, whatever its status is. Raises RemoteError and its kinds."""
        with self.exchange(method, path, accept=accept, parameters=parameters, content=content) as answer:
            return Document(answer.status_code, answer.headers, self._read(answer))

    @contextmanager
    def exchange(
        self,
        method: str,
        path: str,
        *,
        accept: str,
        parameters: Sequence[tuple[str, str]] = (),
        content: Content | None = None,
        least_rate: int | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request; within the block the body of the answer can be read, at `least_rate` if there is one.

        A redirect is followed if it stays at the same origin. Raises RemoteError and its kinds, also while the body is
        read.
        """
        # RFC 3986 3.4 allows these as they are. Orthanc takes an escaped * for the character and not for a wildcard.
        query = f"?{urlencode(parameters, safe='*?,', quote_via=quote)}" if parameters else ""
        with self._failures():
            url = httpx.URL(f"{self._base}{path}{query}")
            answer = self._redirected(method, url, accept, content, least_rate)
            try:
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise RemoteError(f"{self.remote.name} answers in a coding that was not asked for")
                yield answer
            finally:
                answer.close()

    def pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        """The body of an answer while it arrives. Raises RemoteError and its kinds."""
        with self._failures():
            yield from answer.iter_raw()

    def refusal(self, answer: Document | httpx.Response, what: str) -> RemoteError:
        """The error that an answer other than success stands for; `what` was asked for."""
        status = answer.status if isinstance(answer, Document) else answer.status_code
        return refusal(self.remote.name, status, answer.headers, what)

    # ---------------------------------------------------------------- one request

    def _redirected(
        self, method: str, url: httpx.URL, accept: str, content: Content | None, least_rate: int | None
    ) -> httpx.Response:
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._logged_in(method, url, accept, content, least_rate)
            location = answer.headers.get("location", "")
            # RFC 9110 15.4: only these two keep method and body; the others are for requests without a body.
            keeps = (HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT)
            if not answer.has_redirect_location or (content is not None and answer.status_code not in keeps):
                return answer
            answer.close()
            target = _joined(url, location)
            if target is None or _origin(target) != _origin(url):
                # Instances and credentials go nowhere but where the configuration says.
                raise RemoteError(f"{self.remote.name} redirects to another address, which is not followed")
            url = target
        raise RemoteError(f"{self.remote.name} redirects again and again")

    def _logged_in(
        self, method: str, url: httpx.URL, accept: str, content: Content | None, least_rate: int | None
    ) -> httpx.Response:
        login = self._login.headers()
        answer = self._send(method, url, {**login, "Accept": accept}, content, least_rate)
        if answer.status_code == HTTPStatus.UNAUTHORIZED and self._login.renew(login):
            answer.close()
            answer = self._send(method, url, {**self._login.headers(), "Accept": accept}, content, least_rate)
        return answer

    def _send(
        self, method: str, url: httpx.URL, headers: dict[str, str], content: Content | None, least_rate: int | None
    ) -> httpx.Response:
        known = self._wire.opened_here()
        try:
            return self._sent(method, url, headers, content, least_rate)
        except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
            if self._wire.opened_here() != known:
                raise
        # The remote may have closed a connection that we kept just when we used it. Every request may be sent twice.
        return self._sent(method, url, headers, content, least_rate)

    def _sent(
        self, method: str, url: httpx.URL, headers: dict[str, str], content: Content | None, least_rate: int | None
    ) -> httpx.Response:
        remote = self.remote
        waits = {
            "connect": remote.connect_timeout,
            "pool": remote.response_timeout,
            "read": Patience(remote.response_timeout, least_rate),
            "write": Patience(remote.response_timeout, LEAST_RATE),
        }
        if content is not None:
            headers = headers | {"Content-Type": content.media_type, "Content-Length": str(content.length)}
        pieces = None if content is None else content.pieces()
        request = self._http.build_request(method, url, headers=headers, content=pieces, extensions={"timeout": waits})
        return self._http.send(request, stream=True)

    def _read(self, answer: httpx.Response) -> bytes:
        """The whole body, for which the time to wait is that of one answer."""
        announced = answer.headers.get("content-length", "")
        body = bytearray()
        if announced.isdecimal() and int(announced) > _MOST_BYTES:
            raise RemoteError(f"the answer of {self.remote.name} is too long")
        for piece in answer.iter_raw():
            body += piece
            if len(body) > _MOST_BYTES:
                raise RemoteError(f"the answer of {self.remote.name} is too long")
        return bytes(body)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        name = self.remote.name
        try:
            yield
        except (httpx.PoolTimeout, httpcore.PoolTimeout):
            raise RemoteBusy(f"all connections to {name} were busy for too long") from None
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise RemoteUnreachable(f"cannot connect to {name}: {error}") from None
        except httpcore.LocalProtocolError:
            # Its text may quote a header.
            raise RemoteError(f"a request to {name} cannot be sent like this") from None
        except httpcore.TimeoutException:
            raise RemoteUnreachable(f"{name} does not answer in time", was_reached=True) from None
        except (*FAILURES, httpx.InvalidURL, httpx.StreamError) as error:
            reason = str(error)[:200] or type(error).__name__
            raise RemoteUnreachable(f"the connection to {name} broke: {reason}", was_reached=True) from None


def _joined(url: httpx.URL, location: str) -> httpx.URL | None:
    try:
        return url.join(location)
    except (httpx.InvalidURL, ValueError):
        return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    # RFC 9110 4.3.3. httpx leaves the default port of the scheme out.
    return url.scheme, url.host, url.port
