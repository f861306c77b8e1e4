"""The paths of stored objects (PS3.18 10.1), and the URLs that answers hold."""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from pacs_server.config.sections.web import WebConfig
from pacs_server.index.instances import StoredInstance
from pacs_server.web.urls import base_url

STUDIES: Final = "/dicom-web/studies"
BELOW_A_STUDY: Final = (
    f"{STUDIES}/{{study}}",
    f"{STUDIES}/{{study}}/series/{{series}}",
    f"{STUDIES}/{{study}}/series/{{series}}/instances/{{instance}}",
)
"""The paths of a study, a series and an instance."""


def instance_url(request: Request, settings: WebConfig) -> Callable[[StoredInstance], str]:
    """The function that gives the URL of an instance as the client reaches it."""
    base = base_url(request, settings) + STUDIES

    def url_of(stored: StoredInstance) -> str:
        uids = stored.uids
        return f"{base}/{uids.study}/series/{uids.series}/instances/{uids.sop}"

    return url_of
