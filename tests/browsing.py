"""What tests with a browser need: a server, its address, and what is in its archive."""

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from pacs_server.app.server import PacsServer
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin

# A loaded machine may take long to draw a page.
PATIENT_MS = 30_000
CT1 = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)


@dataclass
class Site:
    """A server whose pages a browser opens."""

    pacs: PacsServer

    @property
    def url(self) -> str:
        """The address of the server, without a slash at its end."""
        assert self.pacs.web_address is not None
        return "http://{}:{}".format(*self.pacs.web_address)

    def keep(self, ds: Dataset, scratch: Path) -> Dataset:
        """Store an instance, as the AE CT1."""
        path = scratch / "one.dcm"
        ds.save_as(path, enforce_file_format=True)
        self.pacs.archive.store.store_file(path, CT1)
        return ds
