"""What tests of outgoing DIMSE share: a pool, remotes, and instances to send."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset
from rawpeer import Instance

from pacs_server.app.assembly import entity_settings
from pacs_server.config import Config
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.net.acceptor import Terms
from pacs_server.scu.link import Requestor
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.sending import Outgoing


def terms() -> Terms:
    """What the server offers in associations, with short time-outs."""
    config = Config.model_validate({"server": {"association_timeout": 1.0, "network_timeout": 2.0}})
    return entity_settings(config, None).acceptor.terms


@contextmanager
def pool(*, idle_seconds: float = 1.0, wait_seconds: float = 5.0, ae_title: str = "PACS") -> Iterator[Pool]:
    """A pool of a server with this AE title; at the end nothing of it is left."""
    made = Pool(
        Requestor(lambda title: None, lambda: ae_title, terms), idle_seconds=idle_seconds, wait_seconds=wait_seconds
    )
    try:
        yield made
    finally:
        made.stop()


def remote(port: int, ae_title: str = "REMOTE", **settings: object) -> RemoteAE:
    """A remote on this machine."""
    return RemoteAE(ae_title, "127.0.0.1", port, 2.0, 5.0, name=ae_title.lower(), **settings)  # type: ignore[arg-type]


def outgoing(dataset: Dataset) -> Outgoing:
    """An instance to send, from memory."""
    instance = Instance.of(dataset)
    uids = InstanceUIDs(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    return Outgoing(uids, *map(str, instance.kind), lambda: instance.data)
