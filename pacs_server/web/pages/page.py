"""Making a page: the template, and what every page shows: who reads it, where one can go from here, the language."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import escape
from starlette.datastructures import ImmutableMultiDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pacs_server import __version__
from pacs_server.dicom.caller import Caller, Role
from pacs_server.errors import FilesMissing, NotAuthorised, PacsError
from pacs_server.web.caller import OPERATION, caller_of
from pacs_server.web.dicomweb.zip_contents import WITHOUT_MISSING
from pacs_server.web.forms import Forms
from pacs_server.web.pages.asking import Asking
from pacs_server.web.pages.assets import Assets
from pacs_server.web.pages.formats import Formats
from pacs_server.web.pages.languages import Language, Languages
from pacs_server.web.pages.viewer_files import viewer_folder
from pacs_server.web.services import WebServices
from pacs_server.web.status import again_after, on_error, on_http_error, status_of
from pacs_server.web.threads import in_thread
from pacs_server.web.urls import base_url

THEME_COOKIE: Final = "pacs-theme"
THEMES: Final = ("auto", "light", "dark", "contrast")
_HEADERS: Final = {
    "cache-control": "no-store",
    # With no-referrer, browsers send `Origin: null` with forms.
    "referrer-policy": "same-origin",
}
# What lies below these is answered to programs, whatever they accept.
_FOR_PROGRAMS: Final = ("/api/", "/dicom-web")
# A page names so many of the files that are missing.
_MOST_NAMED: Final = 20
_NONE: Final[Mapping[str, Sequence[str]]] = {}
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the navigation: its text in English, its path, the name of its icon, and who sees it."""

    text: str
    path: str
    icon: str
    role: Role = Role.READER
    # Entries of a group stand together, under its name.
    group: str = ""


class Pages:
    """What makes pages for all rooms, and answers their errors as pages."""

    def __init__(self, services: WebServices, ask: Asking, forms: Forms, assets: Assets) -> None:
        self.services = services
        self.ask = ask
        self.forms = forms
        self.assets = assets
        self.languages = Languages()
        self.entries: Sequence[Entry] = ()
        # The routes of all pages, each of which has an address; what answers a form need not have one.
        self.routes: Sequence[Route] = ()
        self._environment = lru_cache(maxsize=None)(self._make_environment)

    def language(self, request: Request) -> Language:
        """The language of the reader."""
        return self.languages.of(request)

    def show(
        self,
        request: Request,
        template: str,
        status: int = HTTPStatus.OK,
        *,
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> Response:
        """The page of a template with these values."""  # fmt: skip
        token = self.forms.token(request)
        language = self.language(request)
        environment = self._environment(language)
        text = environment.get_template(template).render(**self._shown(request, language, token), **values)
        answer = HTMLResponse(text, status, {**_HEADERS, **(headers or {})})
        if not self.forms.has(request, token):
            self.forms.keep(request, answer, token, self.services.config().web.sessions.lifetime)
        return answer

    def go(self, request: Request, path: str, **query: object) -> Response:
        """Send the browser to another page: what every form answers that has done its work (RFC 9110 15.4.4)."""
        found = {name: value for name, value in query.items() if value not in (None, "")}
        target = f"{self.prefix(request)}{path}" + (f"?{urlencode(found, doseq=True)}" if found else "")
        return RedirectResponse(target, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})

    def prefix(self, request: Request) -> str:
        """The path under which a proxy shows this server, '' for none."""
        return urlsplit(base_url(request, self.services.config().web)).path.rstrip("/")

    async def form(self, request: Request) -> ImmutableMultiDict[str, str]:
        """The fields of a form that one of our pages has sent. Raises InvalidRequest."""
        return await self.forms.read(request)

    def guarded(self, handler: Handler) -> Handler:
        """A handler whose errors are answered as a page; what a caller may not do is recorded as well."""

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except NotAuthorised as error:
                operation = request.scope.get(OPERATION, f"{request.method} {request.url.path}")
                await in_thread(self.services.auditor.refused, caller_of(request), operation, str(error))
                return self._problem(request, error)
            except PacsError as error:
                return self._problem(request, error)

        return handle

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """Answer what the router finds, no such path or method, as a page where a browser wants to show one."""
        assert isinstance(error, HTTPException)
        programs = request.url.path.startswith(_FOR_PROGRAMS)
        if programs or "text/html" not in request.headers.get("accept", ""):
            return await on_http_error(request, error)
        why = f"there is no page {request.url.path}" if error.status_code == HTTPStatus.NOT_FOUND else error.detail
        return self.problem(request, error.status_code, why)

    async def on_files_missing(self, request: Request, error: Exception) -> Response:
        """Answer that a download is incomplete: a browser gets the page that leads to the rest, wherever it asked."""
        assert isinstance(error, FilesMissing)
        if "text/html" not in request.headers.get("accept", ""):
            return await on_error(request, error)
        return self.files_missing(request, error)

    def files_missing(
        self, request: Request, error: FilesMissing, form: Mapping[str, Sequence[str]] = _NONE
    ) -> Response:
        """The page that says which files are missing and leads to the rest: by a link, or by the `form` once more."""
        query = {**request.query_params, WITHOUT_MISSING: "1"}
        return self.show(
            request, "files_missing.html", status_of(error), missing=error.instances, of=error.of,
            query=query, form=form, most=_MOST_NAMED,
        )  # fmt: skip

    def problem(self, request: Request, status: int, why: str) -> Response:
        """The page that says what is wrong and what to do."""
        return self.show(request, "problem.html", status, headers=again_after(status), code=int(status), why=why)

    def _problem(self, request: Request, error: PacsError) -> Response:
        return self.problem(request, status_of(error), str(error))

    def _shown(self, request: Request, language: Language, token: str) -> dict[str, Any]:
        """What every template knows."""
        caller = caller_of(request)
        prefix = self.prefix(request)
        theme = request.cookies.get(THEME_COOKIE, "auto")
        return {
            "request": request,
            "path": request.url.path,
            "back": self._way_back(request),
            "caller": caller,
            "can": Abilities(caller),
            "prefix": prefix,
            "url": lambda path, **query: _url(prefix, path, query),
            "asset": lambda name: prefix + self.assets.path(name),
            "token": token,
            "language": language,
            "languages": [self.languages.language(code) for code in self.languages.codes],
            "theme": theme if theme in THEMES else "auto",
            "themes": THEMES,
            "entries": [entry for entry in self.entries if _is_for(entry, caller)],
            "version": __version__,
            "has_viewer": viewer_folder(self.services.config().web.viewer_path) is not None,
            "has_exports": self.services.config().web.export_directory is not None,
            "share_links": self.services.config().web.share_links.enabled,
            "archive": self.services.config().server.ae_title,
        }

    def _way_back(self, request: Request) -> str:
        """The address of this page; if it is the answer to a form, that of the page above it."""
        path, query = request.url.path, request.url.query
        if request.method == "GET":
            return f"{path}?{query}" if query else path
        while path and not any(route.path_regex.match(path) for route in self.routes):
            path = path.rpartition("/")[0]
        return path or "/"

    def _make_environment(self, language: Language) -> Environment:
        environment = Environment(
            loader=PackageLoader("pacs_server.web.pages"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
        )
        # Templates take what these return for markup, so a text that is none of ours must have become harmless before.
        environment.install_gettext_callables(  # type: ignore[attr-defined]
            lambda text: escape(language.gettext(text)),
            lambda singular, plural, number: escape(language.ngettext(singular, plural, number)),
            newstyle=True,
        )
        environment.filters |= Formats(language.locale).filters()
        return environment


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the reader of a page may do, for templates."""

    caller: Caller

    @property
    def contribute(self) -> bool:
        """Whether the reader may store, mark and send."""
        return self.caller.role >= Role.CONTRIBUTOR

    @property
    def operate(self) -> bool:
        """Whether the reader may look after the archive."""
        return self.caller.role >= Role.OPERATOR and not self.caller.scope.is_limited

    @property
    def administer(self) -> bool:
        """Whether the reader may manage users and see the audit trail."""
        return self.caller.role >= Role.ADMINISTRATOR and not self.caller.scope.is_limited


def _is_for(entry: Entry, caller: Caller) -> bool:
    """Whether somebody has an entry in the navigation; who came by a link to one study has only the way back to it."""
    return caller.role >= entry.role and (not caller.scope.studies or entry.path == "/studies")


def _url(prefix: str, path: str, query: Mapping[str, object]) -> str:
    """The address of a page for a template; parameters without a value are left out."""
    found = {name: value for name, value in query.items() if value not in (None, "", [])}
    return f"{prefix}{quote(path)}" + (f"?{urlencode(found, doseq=True)}" if found else "")
