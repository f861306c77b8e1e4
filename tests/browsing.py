"""What tests with a browser need: a server, its address, and what is in its archive."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pydicom.dataset import Dataset
from servers import config, running

from pacs_server.app.server import PacsServer
from pacs_server.config.model import Config
from pacs_server.config.rights import Rights, RoleName
from pacs_server.config.sections.database import DatabaseConfig
from pacs_server.config.users import add_user
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# No test waits for the network of others, and none has a display. The sandbox needs rights that containers lack.
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run")
# A loaded machine may take long to draw a page.
PATIENT_MS = 30_000
PASSWORD = "correct horse battery staple"
CT1 = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)


def program() -> str:
    """Where the browser is; skips if there is none, and fails then where everything has to be tested."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        assert os.environ.get("CI") != "true", "chromium is not installed"
        pytest.skip("chromium is not installed")
    return found


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

    def with_key(self, page: Page, role: RoleName) -> None:
        """Log a browser in by a key with this role."""
        key = self.pacs.archive.keys.create(f"browser of the {role}", Rights(role=role), None)
        page.set_extra_http_headers({"Authorization": f"Bearer {key}"})

    def log_in(self, page: Page, name: str = "ann") -> None:
        """Log in by the form."""
        page.goto(f"{self.url}/login")
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_label("Preferences and account")).to_have_text(name)


Start = Callable[..., Site]


def on_database(settings: Config, url: str) -> Config:
    """The settings with the database of a test."""
    if not url.startswith("postgresql"):
        return settings
    return settings.model_copy(update={"database": DatabaseConfig(url=url)})


@contextmanager
def guarded(directory: Path, role: RoleName) -> Iterator[Site]:
    """A server with one user, ann, who has this role."""
    settings, users = config(directory, web=True), directory / "users"
    add_user(users, "ann", PASSWORD, Rights(role=role))
    section = settings.user_identity.model_copy(update={"users_path": users})
    with running(settings.model_copy(update={"user_identity": section})) as pacs:
        yield Site(pacs)
