"""The paths of stored objects (PS3.18 10.1), and the URLs that answers hold."""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from pacs_server.config.sections.web import WebConfig
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index.instances import StoredInstance
from pacs_server.web.urls import base_url

BASE: Final = "/dicom-web"
STUDIES: Final = f"{BASE}/studies"
STUDY: Final = f"{STUDIES}/{{study}}"
SERIES: Final = f"{STUDY}/series/{{series}}"
INSTANCE: Final = f"{SERIES}/instances/{{instance}}"
FRAMES: Final = f"{INSTANCE}/frames/{{frames}}"
BELOW_A_STUDY: Final = (STUDY, SERIES, INSTANCE)
"""The paths of a study, a series and an instance."""


def instance_url(request: Request, settings: WebConfig) -> Callable[[StoredInstance], str]:
    """The function that gives the URL of an instance as the client reaches it."""
    base = base_url(request, settings)
    return lambda stored: url_of_instance(base, stored.uids)


def url_of_instance(base: str, uids: InstanceUIDs) -> str:
    """The URL of an instance at a server of this address."""
    return f"{url_of_study(base, uids.study)}/series/{uids.series}/instances/{uids.sop}"


def url_of_study(base: str, study_instance_uid: str) -> str:
    """The URL of a study at a server of this address."""
    return f"{base}{STUDIES}/{study_instance_uid}"
