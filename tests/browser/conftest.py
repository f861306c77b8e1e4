"""A browser, a server with its pages, and a page that may have nothing to complain about."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import FLAGS, PATIENT_MS, Site, Start, on_database, program
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from pydicom.dataset import Dataset
from servers import config, running

from pacs_server.config.load import load
from pacs_server.config.model import Config
from pacs_server.config.sections.user_identity import UserIdentityConfig

_SHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file; each test has a profile of its own in it.

    Not for all files: as long as it is there this thread has an event loop, and other tests want one of their own.
    """
    found = program()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    """A server with an empty archive, on a database of each kind."""
    users = UserIdentityConfig(users_path=tmp_path / "users")
    settings = config(tmp_path, web=True).model_copy(update={"user_identity": users})
    (tmp_path / "exports").mkdir()
    web = settings.web.model_copy(update={"export_directory": tmp_path / "exports"})
    settings = settings.model_copy(update={"web": web})
    with running(on_database(settings, database_url)) as pacs:
        yield Site(pacs)


@pytest.fixture
def admin(site: Site, page: Page) -> Page:
    """A browser that is logged in as an administrator."""
    site.with_key(page, "administrator")
    return page


@pytest.fixture
def start(database_url: str, tmp_path: Path, page: Page) -> Iterator[Start]:
    """Starts a server whose access control is in a configuration file; the browser is logged in as an administrator."""
    path = tmp_path / "pacs.yaml"
    servers = []

    def begin(file: str, **options: object) -> Site:
        path.write_text(file)
        settings: Config = on_database(config(tmp_path, web=True, **options), database_url)  # type: ignore[arg-type]

        def read() -> Config:
            access = load(path, environ={}, overrides={}).access_control
            return settings.model_copy(update={"access_control": access, "source": path})

        server = running(read(), reload=read)
        servers.append(server)
        site = Site(server.__enter__())
        site.with_key(page, "administrator")
        return site

    yield begin
    # Its streams and questions would go on while the server stops.
    page.goto("about:blank")
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty page of a new profile; the test fails if its console complains of anything, the policy of content too.

    `mark.complains("...")` names what it may say. What the page shows at the end is kept in build/screenshots.
    """
    expect.set_options(timeout=PATIENT_MS)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB", ignore_https_errors=True)
    context.set_default_timeout(PATIENT_MS)
    page = context.new_page()
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.text} {message.location.get('url', '')}")

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    _SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=_SHOTS / f"{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower()).strip('-')}.png")
    # Otherwise its requests and its stream of events would go on while the server stops.
    context.close()
    mark = request.node.get_closest_marker("complains")
    allowed = mark.args if mark else ()
    assert [each for each in complaints if not any(text in each for text in allowed)] == []


@pytest.fixture
def look(site: Site, page: Page, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Stores data sets, and opens the quick look at the series of the first one."""

    def opened(*data_sets: Dataset, **query: str) -> None:
        for ds in data_sets:
            site.keep(ds, tmp_path)
        rest = "&".join(f"{name}={value}" for name, value in query.items())
        page.goto(f"{site.url}/look/{data_sets[0].StudyInstanceUID}?{rest}")
        expect(page.get_by_text("Not for diagnosis", exact=True)).to_be_visible()

    yield opened
    # The page may end after the server: it may not wait for news then.
    page.evaluate("dispatchEvent(new Event('pagehide'))")
