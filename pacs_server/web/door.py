"""The HTTP door as an ASGI application: its routes, and what every request goes through."""

from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pacs_server.audit.auditor import Auditor
from pacs_server.errors import FilesMissing, NotAuthorised, PacsError
from pacs_server.services.frames import FrameService
from pacs_server.services.metadata import KeptFrameMaps
from pacs_server.services.rendering import RenderingService
from pacs_server.web.api.door import RESTAPI
from pacs_server.web.caller import OPERATION, caller_of
from pacs_server.web.dicomweb.bulkdata import BulkData
from pacs_server.web.dicomweb.capabilities import with_capabilities
from pacs_server.web.dicomweb.delete import Delete
from pacs_server.web.dicomweb.frames import Frames
from pacs_server.web.dicomweb.instance_parts import Opener
from pacs_server.web.dicomweb.metadata import Metadata
from pacs_server.web.dicomweb.qido import QIDO
from pacs_server.web.dicomweb.rendered import Rendered
from pacs_server.web.dicomweb.stow import STOW
from pacs_server.web.dicomweb.viewing import Views, Workers
from pacs_server.web.dicomweb.wado import WADO
from pacs_server.web.dicomweb.wado_uri import WADOURI
from pacs_server.web.dispatch import Dispatch, Handler
from pacs_server.web.forms import Forms
from pacs_server.web.login import Login
from pacs_server.web.middleware import Gate
from pacs_server.web.oidc import Provider
from pacs_server.web.pages.asking import Asking
from pacs_server.web.pages.assets import Assets
from pacs_server.web.pages.door import Rooms
from pacs_server.web.pages.page import Pages
from pacs_server.web.passwords import Passwords
from pacs_server.web.policy import Policy
from pacs_server.web.services import WebServices
from pacs_server.web.status import on_error, on_http_error
from pacs_server.web.threads import in_thread
from pacs_server.web.urls import base_url


def make_app(services: WebServices) -> ASGIApp:
    """The application that answers every request of the HTTP door. To add a door, add a line to `routes`."""
    passwords, provider = Passwords(services.passwords), Provider()
    policy = Policy(services, passwords, provider)

    rest = RESTAPI(services)
    asking = Asking(rest.operations, lambda request: base_url(request, services.config().web))
    pages = Pages(services, asking, Forms(policy.names), Assets())
    routes = [
        *Login(services, policy, passwords, provider, pages).routes(),
        *with_capabilities(_dicomweb(services), services.config),
        *rest.routes(),
        *Rooms(pages).routes(),
    ]
    app = Dispatch(
        routes,
        error_handlers(services.auditor)
        | {
            HTTPException: pages.on_http_error,
            FilesMissing: pages.on_files_missing,
        },
    )
    return Gate(app, lambda: services.config().web, policy.identify)


def error_handlers(auditor: Auditor) -> dict[type[Exception], Handler]:
    """What answers each kind of error; what a caller may not do is recorded as well."""

    async def on_refusal(request: Request, error: Exception) -> Response:
        operation = request.scope.get(OPERATION, f"{request.method} over HTTP")
        await in_thread(auditor.refused, caller_of(request), operation, str(error))
        return await on_error(request, error)

    return {NotAuthorised: on_refusal, PacsError: on_error, HTTPException: on_http_error}


def _dicomweb(services: WebServices) -> Iterable[Route]:
    """The resources of DICOMweb, each with one method or more."""
    yield from QIDO(services).routes()
    kept = KeptFrameMaps(services.metadata)
    frames = FrameService(services.retrieve, kept)
    views, workers = Views(services.auditor, services.retrieve), Workers()
    opener = Opener(services.retrieve, frames, workers)
    rendering = RenderingService(frames)
    yield from Frames(services, frames, views, workers).routes()
    yield from Rendered(services, rendering, views, workers).routes()
    yield from WADOURI(services, rendering, views, workers, opener).routes()
    bulk_data = BulkData(services, views, kept)
    yield from WADO(services, views, opener, bulk_data).routes()
    yield from Metadata(services, views).routes()
    yield from bulk_data.routes()
    yield from STOW(services).routes()
    yield from Delete(services).routes()
