"""**The** policy of who may make a request: sessions, passwords, API keys, tokens, certificates, or open mode.

Nobody has to log in while all of this holds, which is open mode: the server listens on this machine alone, there were
no users since it began, there are no API keys, no certificates to log in with, no `web.public_url`, no
`web.trusted_proxies` and no `web.oidc`, no proxy has passed the request on, and it does not come from a page of
somebody else.
"""

from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response

from pacs_server.config.model import Config
from pacs_server.config.passwords import Verdict
from pacs_server.config.types import is_loopback
from pacs_server.dicom.caller import Caller, Door, Role
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.errors import NotAuthorised
from pacs_server.services.access import granted, require, rule_of_certificate, takes_certificates
from pacs_server.services.api_keys import PREFIX
from pacs_server.services.share_links import WAY
from pacs_server.web.addresses import Visitor, visitor_of
from pacs_server.web.caller import KEY
from pacs_server.web.credentials import CookieNames, Password, Token, has_token_to_show, shown
from pacs_server.web.head import SAFE_METHODS
from pacs_server.web.lane import Lane
from pacs_server.web.oidc import Provider
from pacs_server.web.oidc_provider import ProviderError
from pacs_server.web.passwords import Passwords
from pacs_server.web.services import WebServices
from pacs_server.web.status import problem
from pacs_server.web.threads import in_thread
from pacs_server.web.urls import base_url, is_same_origin

LOGIN, LOGOUT, START, CALLBACK = "/login", "/logout", "/login/oidc", "/login/callback"
# Where links to one study lead.
SHARE: Final = "/share"
PUBLIC: Final = (LOGIN, LOGOUT, START, CALLBACK, SHARE)
# What the login page looks like is no secret.
ASSETS: Final = "/static/"
SESSION: Final = "session"
NOT_HTTPS: Final = (
    "a password may be sent over HTTPS only; if a proxy speaks HTTPS for this server, name it in web.trusted_proxies"
)
# They check tokens, which may have to wait for the provider.
_THREADS: Final = 4
_REALM: Final = 'realm="pacs-server"'
_WRONG: Final = "the credentials are not valid, or no longer"
_NOT_NEEDED: Final = f"{_WRONG}; nobody has to log in here yet, so leave the Authorization header out"


class Policy:
    """Finds out the caller of each request."""

    def __init__(self, services: WebServices, passwords: Passwords, provider: Provider) -> None:
        self._services = services
        self._passwords = passwords
        self._provider = provider
        self._tokens = Lane(_THREADS)
        self._had_users = False

    async def identify(self, request: HTTPConnection) -> Caller | Response:
        """The caller of a request, or the answer that refuses it.

        Raises NotAuthorised, IndexUnavailable, ResourceLimitation.
        """
        config = self._services.config()
        visitor = visitor_of(request, config.web)
        path = request.scope["path"]
        found: Caller | Response | None
        if await self._shows(request, visitor, config):
            found = await self._shown(request, visitor, config)
        else:
            found = await self._known(request, visitor, config)
        if isinstance(found, Response):
            return found
        if path in PUBLIC or path.startswith(ASSETS):
            return found or caller_of_visitor(visitor, role=Role.NOBODY)
        if found is None:
            return self._challenge(request, visitor, config)
        await self._check_least_role(found, request.scope["method"])
        return found

    def names(self, request: HTTPConnection) -> CookieNames:
        """The names of the cookies of a request."""
        secure = base_url(request, self._services.config().web).startswith("https:")
        return CookieNames(self._services.sessions.archive_id(), secure)

    async def is_open(self, visitor: Visitor, config: Config) -> bool:
        """Whether this visitor need not log in. Raises IndexUnavailable.

        Once there were users it is over for the life of this process: a file that vanishes opens no door.
        """
        web, keys = config.web, self._services.keys
        self._had_users = self._had_users or self._services.passwords.anybody(config.user_identity.users_path)
        if self._had_users or not (visitor.local and is_loopback(web.host)):
            return False
        if web.public_url or web.trusted_proxies or web.oidc.issuer or takes_certificates(config):
            return False
        known = keys.recently_exist()
        return not (await in_thread(keys.exist) if known is None else known)

    # ---------------------------------------------------------------- without an Authorization header

    async def _known(self, request: HTTPConnection, visitor: Visitor, config: Config) -> Caller | None:
        """The caller by cookie, certificate or open mode, in this order; None if nobody is known."""
        token = request.cookies.get(self.names(request).of(SESSION)) if "cookie" in request.headers else None
        # A request that only goes on does not keep the session from ending without use.
        begins = KEY not in request.scope
        if token and (caller := await self._of_session(token, visitor, config, used=begins)):
            return caller
        if visitor.certificate and (caller := _of_certificate(visitor, config)):
            return caller
        if _is_of_no_stranger(request, config) and await self.is_open(visitor, config):
            return caller_of_visitor(visitor, role=Role.CONTRIBUTOR)
        return None

    async def _of_session(self, token: str, visitor: Visitor, config: Config, *, used: bool) -> Caller | None:
        sessions = self._services.sessions
        session = sessions.recent(token) or await in_thread(sessions.find, token, used=used)
        if session is None:
            return None
        if session.way == "password":
            user = self._services.passwords.find(config.user_identity.users_path, session.user)
            stamp = None if user is None else user.stamp
        elif session.way == WAY:
            stamp = WAY if config.web.share_links.enabled else None
        else:
            stamp = self._provider.stamp(config.web.oidc)
        if stamp != session.stamp:
            # The password or the rights have changed since, or there is no such user any more.
            await in_thread(sessions.end, token)
            return None
        return caller_of_visitor(visitor, session.user, session.role, session.scope)

    # ---------------------------------------------------------------- with an Authorization header

    async def _shows(self, request: HTTPConnection, visitor: Visitor, config: Config) -> bool:
        """Whether the Authorization header decides: always if there is one, but for "no token" in open mode."""
        if has_token_to_show(request):
            return True
        return "authorization" in request.headers and not await self.is_open(visitor, config)

    async def _shown(self, request: HTTPConnection, visitor: Visitor, config: Config) -> Caller | Response:
        match shown(request):
            case Password(name, password):
                return await self._of_password(name, password, visitor, config)
            case Token(text) if text.startswith(PREFIX):
                keys = self._services.keys
                key = keys.recent(text) or await in_thread(keys.find, text)
                if key is not None:
                    return caller_of_visitor(visitor, f"key:{key.name}", key.role, key.scope)
            case Token(text) if config.web.oidc.issuer:
                try:
                    caller = await self._tokens.run(self._of_token, text, visitor, config)
                except ProviderError as error:
                    return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
                if caller is not None:
                    return caller
        failed = self._services.auditor.login_failed
        await in_thread(failed, caller_of_visitor(visitor), "", "the token is not valid")
        headers = {"www-authenticate": f'Bearer {_REALM}, error="invalid_token"'}
        # RFC 6750 3.1: a token that is not valid is refused, also where none is needed.
        return problem(HTTPStatus.UNAUTHORIZED, _NOT_NEEDED if await self.is_open(visitor, config) else _WRONG, headers)

    def _of_token(self, token: str, visitor: Visitor, config: Config) -> Caller | None:
        """The caller that the provider's token is of, None if it is not valid. Raises ProviderError."""
        person = self._provider.of_token(token, config.web.oidc)
        if person is None:
            return None
        caller = caller_of_visitor(visitor, person.user, person.role)
        self._services.auditor.logged_in(caller, person.origin, often=True)
        return caller

    async def _of_password(self, name: str, password: bytes, visitor: Visitor, config: Config) -> Caller | Response:
        if not (visitor.https or visitor.local):
            return problem(HTTPStatus.FORBIDDEN, NOT_HTTPS)
        path, auditor = config.user_identity.users_path, self._services.auditor
        verdict, user, looked = await self._passwords.check_again(path, name, password, visitor.address)
        if user is not None:
            caller = caller_of_visitor(visitor, name, *granted(user.rights))
            if looked:
                await in_thread(auditor.logged_in, caller, often=True)
            return caller
        put_off = verdict is Verdict.NOT_NOW
        told = caller_of_visitor(visitor), name, refusal_of(verdict)
        await in_thread(auditor.login_failed, *told, put_off=put_off)
        if put_off:
            return problem(HTTPStatus.TOO_MANY_REQUESTS, refusal_of(verdict), {"retry-after": "12"})
        return problem(HTTPStatus.UNAUTHORIZED, refusal_of(verdict), {"www-authenticate": _basic()})

    # ---------------------------------------------------------------- refusals

    def _challenge(self, request: HTTPConnection, visitor: Visitor, config: Config) -> Response:
        """Ask for a login: browsers on their way to a page by sending them to one, all others by a status."""
        headers = request.headers
        method = request.scope["method"]
        if method in ("GET", "HEAD") and "text/html" in headers.get("accept", ""):
            query = request.scope["query_string"].decode("latin-1")
            target = quote(request.scope["path"] + (f"?{query}" if query else ""), safe="")
            return RedirectResponse(f"{base_url(request, config.web)}{LOGIN}?next={target}", HTTPStatus.SEE_OTHER)
        # A browser would open a window of its own for Basic.
        basic = f", {_basic()}" if (visitor.https or visitor.local) and "sec-fetch-site" not in headers else ""
        told = {"www-authenticate": f"Bearer {_REALM}{basic}"}
        return problem(HTTPStatus.UNAUTHORIZED, "log in, or send an API key as a bearer token", told)

    async def _check_least_role(self, caller: Caller, method: str) -> None:
        """Raise NotAuthorised for what no door lets a caller of this role do; the doors themselves may ask for more."""
        try:
            require(caller, Role.READER if method in SAFE_METHODS else Role.CONTRIBUTOR)
        except NotAuthorised as error:
            await in_thread(self._services.auditor.refused, caller, method, str(error))
            raise


def caller_of_visitor(
    visitor: Visitor, user: str | None = None, role: Role = Role.NOBODY, scope: Scope = EVERYTHING
) -> Caller:
    """The caller that a visitor is, once it is known who that is."""
    return Caller(
        Door.WEB,
        visitor.address,
        user=user,
        tls=visitor.https,
        certificate=visitor.certificate,
        role=role,
        scope=scope,
    )


def refusal_of(verdict: Verdict) -> str:
    """What somebody is told whose password was not taken."""
    if verdict is Verdict.NOT_NOW:
        return "too many wrong passwords, try again in a moment"
    return "the name or the password is wrong"


def _basic() -> str:
    return f'Basic {_REALM}, charset="UTF-8"'


def _of_certificate(visitor: Visitor, config: Config) -> Caller | None:
    """A system with a certificate is who its access rule says, and may do what the rule allows over DICOM."""
    rule = rule_of_certificate(visitor.address, visitor.certificate, config.access_control)
    if rule is None or not {"find", "get"} <= set(rule.allow):
        return None
    role = Role.CONTRIBUTOR if "store" in rule.allow else Role.READER
    title = "" if set("*?") & set(rule.ae_title) else rule.ae_title
    who = f"certificate:{visitor.certificate[0]}"
    return Caller(Door.WEB, visitor.address, title, "", who, True, visitor.certificate, rule, role)


def _is_of_no_stranger(request: HTTPConnection, config: Config) -> bool:
    """Whether a request that nobody has logged in for comes from no page of somebody else.

    A page in a browser of this machine could read the archive for its author otherwise. A link may lead here.
    """
    is_link = (
        request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"
    )
    return is_same_origin(request, config.web) or (is_link and "origin" not in request.headers)
