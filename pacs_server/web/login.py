"""Logging in and out in a browser: a form for local users, and the way to the provider and back."""

import hmac
import logging
import secrets
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pacs_server.config.model import Config
from pacs_server.config.passwords import Verdict
from pacs_server.dicom.caller import Role
from pacs_server.dicom.scope import EVERYTHING
from pacs_server.errors import NotFound
from pacs_server.services.access import granted
from pacs_server.services.sessions import Session
from pacs_server.web.addresses import Visitor, visitor_of
from pacs_server.web.caller import caller_of
from pacs_server.web.lane import Lane
from pacs_server.web.oidc import Attempt, Provider
from pacs_server.web.oidc_provider import ProviderError
from pacs_server.web.pages.page import Pages
from pacs_server.web.passwords import Passwords
from pacs_server.web.policy import (
    CALLBACK,
    LOGIN,
    LOGOUT,
    NOT_HTTPS,
    SESSION,
    START,
    Policy,
    caller_of_visitor,
    refusal_of,
)
from pacs_server.web.services import WebServices
from pacs_server.web.urls import base_url, local_target

log = logging.getLogger(__name__)

_MOST_BYTES: Final = 16_384
# They wait for the provider.
_THREADS: Final = 3
# A login, or a visit to the provider, may take so long, in seconds.
_PATIENCE: Final = 900
# The purpose of the cookie that ties a visit to the provider to the browser that began it.
_VISIT: Final = "visit"


class Login:
    """Answers /login and /logout."""

    def __init__(
        self, services: WebServices, policy: Policy, passwords: Passwords, provider: Provider, pages: Pages
    ) -> None:
        self._services = services
        self._pages = pages
        self._policy = policy
        self._passwords = passwords
        self._provider = provider
        self._visits = Lane(_THREADS)
        self._forms = pages.forms

    def routes(self) -> list[Route]:
        """The pages, and where their forms go."""
        return [
            Route(LOGIN, self.form, methods=["GET"]),
            Route(LOGIN, self.log_in, methods=["POST"]),
            Route(LOGOUT, self.ask, methods=["GET"]),
            Route(LOGOUT, self.log_out, methods=["POST"]),
            Route(START, self.visit, methods=["GET"]),
            Route(CALLBACK, self.back, methods=["GET"]),
        ]

    # ---------------------------------------------------------------- by password

    async def form(self, request: Request) -> Response:
        """Ask for name and password."""
        return self._form(request, request.query_params.get("next", ""))

    async def log_in(self, request: Request) -> Response:
        """Check name and password, and begin a session. Raises InvalidRequest, ResourceLimitation."""
        sent = await self._forms.read(request, _MOST_BYTES)
        config = self._services.config()
        visitor = visitor_of(request, config.web)
        name, target = sent.get("name", ""), sent.get("next", "")
        if not (visitor.https or visitor.local):
            return self._form(request, target, _sentence(NOT_HTTPS))
        password = sent.get("password", "").encode("utf-8", "surrogateescape")
        path = config.user_identity.users_path
        verdict, user = await self._passwords.check(path, name, password, visitor.address)
        if user is None:
            why = refusal_of(verdict)
            put_off = verdict is Verdict.NOT_NOW
            failed = self._services.auditor.login_failed
            await run_in_threadpool(failed, caller_of_visitor(visitor), name, why, put_off=put_off)
            return self._form(request, target, _sentence(why), name)
        session = Session(name, *granted(user.rights), "password", user.stamp)
        return await self._begun(request, visitor, session, target)

    async def _begun(
        self, request: Request, visitor: Visitor, session: Session, target: str, origin: str = ""
    ) -> Response:
        """Send a browser that has logged in where it wanted to go, with the cookie of a new session."""
        names, sessions = self._policy.names(request), self._services.sessions
        if before := request.cookies.get(names.of(SESSION)):
            await run_in_threadpool(sessions.end, before)
        token = await run_in_threadpool(sessions.begin, session, visitor.address)
        caller = caller_of_visitor(visitor, session.user, session.role, session.scope)
        await run_in_threadpool(self._services.auditor.logged_in, caller, origin)
        config = self._services.config()
        answer = RedirectResponse(f"{base_url(request, config.web)}{_local(target)}", HTTPStatus.SEE_OTHER)
        names.set(answer, SESSION, token, config.web.sessions.lifetime)
        self._forms.drop(request, answer)
        return answer

    def _form(self, request: Request, target: str, problem: str = "", name: str = "") -> Response:
        config = self._services.config()
        oidc = bool(config.web.oidc.issuer)
        target = _local(target)
        return self._pages.show(
            request,
            "login.html",
            HTTPStatus.UNAUTHORIZED if problem else HTTPStatus.OK,
            target=target,
            problem=problem,
            passwords=not oidc or self._services.passwords.anybody(config.user_identity.users_path),
            provider=f"{self._pages.prefix(request)}{START}?next={quote(target, safe='')}" if oidc else "",
            name=name,
        )

    # ---------------------------------------------------------------- by the provider

    async def visit(self, request: Request) -> Response:
        """Send the browser to the provider. Raises NotFound if there is none, ResourceLimitation."""
        config = self._with_provider()
        attempt = Attempt(secrets.token_urlsafe(32))
        try:
            address = await self._visits.run(
                self._provider.address, config.web.oidc, attempt, self._callback(request, config)
            )
        except ProviderError as error:
            return await self._failed(request, error)
        answer = RedirectResponse(address, HTTPStatus.SEE_OTHER)
        target = quote(_local(request.query_params.get("next", "")), safe="")
        self._policy.names(request).set(answer, _VISIT, f"{attempt.secret}.{target}", _PATIENCE)
        return answer

    async def back(self, request: Request) -> Response:
        """Take what the provider has sent the browser back with, and begin a session.

        Raises NotFound, ResourceLimitation.
        """
        config = self._with_provider()
        names, query = self._policy.names(request), request.query_params
        secret, _, target = request.cookies.get(names.of(_VISIT), "").partition(".")
        attempt = Attempt(secret)
        try:
            if not secret or not hmac.compare_digest(query.get("state", "").encode(), attempt.state.encode()):
                raise ProviderError("this login was begun elsewhere, or too long ago")
            # RFC 9207: an answer of another provider is not for us.
            if query.get("iss", config.web.oidc.issuer) != config.web.oidc.issuer:
                raise ProviderError("the answer is of another provider")
            if "code" not in query:
                raise ProviderError("the provider refused")
            person = await self._visits.run(
                self._provider.finish, config.web.oidc, attempt, self._callback(request, config), query["code"]
            )
        except ProviderError as error:
            answer = await self._failed(request, error)
        else:
            session = Session(person.user, person.role, EVERYTHING, "oidc", self._provider.stamp(config.web.oidc))
            visitor = visitor_of(request, config.web)
            answer = await self._begun(request, visitor, session, unquote(target), person.origin)
        names.drop(answer, _VISIT)
        return answer

    def _with_provider(self) -> Config:
        config = self._services.config()
        if not config.web.oidc.issuer:
            raise NotFound("there is no provider to log in at")
        return config

    async def _failed(self, request: Request, error: ProviderError) -> Response:
        log.warning("login at the provider failed", extra={"reason": str(error)})
        visitor = visitor_of(request, self._services.config().web)
        failed = self._services.auditor.login_failed
        await run_in_threadpool(failed, caller_of_visitor(visitor), "", f"OpenID Connect: {error}")
        return self._form(request, "", _sentence(str(error)))

    def _callback(self, request: Request, config: Config) -> str:
        return f"{base_url(request, config.web)}{CALLBACK}"

    # ---------------------------------------------------------------- out

    async def ask(self, request: Request) -> Response:
        """Ask whether to log out."""
        return self._pages.show(request, "logout.html")

    async def log_out(self, request: Request) -> Response:
        """End the session. Raises InvalidRequest."""
        await self._forms.read(request, _MOST_BYTES)
        names, caller, config = self._policy.names(request), caller_of(request), self._services.config()
        if token := request.cookies.get(names.of(SESSION)):
            await run_in_threadpool(self._services.sessions.end, token)
            if caller.role is not Role.NOBODY:
                await run_in_threadpool(self._services.auditor.logged_out, caller)
        answer = RedirectResponse(f"{base_url(request, config.web)}{LOGIN}", HTTPStatus.SEE_OTHER)
        names.drop(answer, SESSION)
        self._forms.drop(request, answer)
        return answer


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _local(target: str) -> str:
    """The path to go to after a login; `/` for whatever might lead elsewhere."""
    target = local_target(target)
    return target if urlsplit(target).path not in (LOGIN, LOGOUT) else "/"
