"""The HTTP door of a running server: what it needs of the other parts."""

from pacs_server.app.runtime import Runtime
from pacs_server.audit.auditor import Auditor
from pacs_server.config.sections.web import WebConfig
from pacs_server.web.door import make_app
from pacs_server.web.limits import WebLimits
from pacs_server.web.server import WebServer
from pacs_server.web.services import WebServices


def web_door(runtime: Runtime) -> WebServer:
    """The part that serves DICOMweb, the REST API and browsers."""
    assert runtime.ports.web is not None
    archive = runtime.archive
    services = WebServices(
        config=runtime.config,
        queries=archive.queries,
        retrieve=archive.retrieve,
        metadata=archive.metadata,
        store=archive.store,
        deletions=archive.deletions,
        patients=archive.patients,
        worklist=archive.worklist,
        mpps=archive.mpps,
        tasks=archive.tasks,
        peers=archive.peers,
        audit=archive.audit,
        auditor=Auditor(archive.audit),
        metrics=runtime.metrics,
    )
    return WebServer(
        runtime.ports.web,
        make_app(services),
        name="web",
        limits=lambda: _limits(runtime.config().web),
        metrics=runtime.metrics,
        stop_within=lambda: runtime.config().server.shutdown_timeout,
        tls=lambda: runtime.settings.web_tls,
    )


def _limits(web: WebConfig) -> WebLimits:
    """One address may have half of all connections, so that nobody can have them all."""
    return WebLimits(
        connections=web.max_connections,
        per_address=max(1, web.max_connections // 2),
        proxies=web.trusted_proxies,
        max_body=web.max_body,
    )
