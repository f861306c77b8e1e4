"""Access rules as DCMTK's tools meet them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pytest
import yaml
from datasets import make_ct, write_part10
from processes import PacsProcess, run_command
from pydicom.dataset import Dataset

pytestmark = pytest.mark.interop

PEERS = [
    {"ae_title": "CT?", "addresses": ["127.0.0.0/30"], "allow": ["echo", "store"]},
    {
        "ae_title": "WS*",
        "addresses": ["127.0.0.0/30"],
        "allow": ["find", "move", "get"],
        "move_destinations": ["REVIEW"],
    },
    {"ae_title": "WS9", "allow": ["echo"]},
    {"ae_title": "AWAY", "addresses": ["192.0.2.0/24"]},
    {"ae_title": "SAFE", "require_tls": True},
]
# The tools name the status each in its own way; the dump of the response has it always.
NOT_AUTHORIZED = re.compile(r"0x0?124\b")


@pytest.fixture(scope="module")
def instance() -> Dataset:
    return make_ct()


@pytest.fixture(scope="module")
def file(instance: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.dcm"
    write_part10(instance, path)
    return path


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dcmtk.StoreSCP]:
    """A storescp that the server knows by two titles."""
    with dcmtk.StoreSCP(tmp_path_factory.mktemp("review") / "files", ae_title="REVIEW") as scp:
        yield scp


@pytest.fixture(scope="module")
def pacs(review: dcmtk.StoreSCP, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsProcess]:
    """A server with rules and one instance."""
    remotes = [{"ae_title": title, "host": "127.0.0.1", "port": review.port} for title in ("REVIEW", "OTHER")]
    settings = {"access_control": {"peers": PEERS}, "remote_aes": remotes}
    with PacsProcess(tmp_path_factory.mktemp("pacs"), settings=settings) as server:
        assert ask(server, "storescu", "CT1", file).returncode == 0
        yield server


def ask(pacs: PacsProcess, tool: str, title: str, *args: object):
    done = dcmtk.run(tool, "-d", "-aet", title, "-aec", "PACS_SERVER", "127.0.0.1", pacs.port, *args)
    done.stdout += done.stderr
    return done


def keys(instance: Dataset) -> list[str]:
    return ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={instance.StudyInstanceUID}"]


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("US1", "Calling AE Title Not Recognized"),
        ("ct1", "Calling AE Title Not Recognized"),
        ("AWAY", "Calling AE Title Not Recognized"),
        ("SAFE", "No Reason"),
    ],
)
def test_who_has_no_rule_that_fits_is_rejected(pacs: PacsProcess, title: str, reason: str) -> None:
    done = ask(pacs, "echoscu", title)
    assert done.returncode != 0
    assert reason in done.stdout


def test_echo_and_store_by_the_rule(pacs: PacsProcess, file: Path) -> None:
    assert ask(pacs, "echoscu", "CT1").returncode == 0
    assert ask(pacs, "storescu", "CT2", file).returncode == 0
    before = pacs.instances()
    refused = ask(pacs, "storescu", "WS1", file)
    assert NOT_AUTHORIZED.search(refused.stdout), refused.stdout
    assert pacs.instances() == before
    assert NOT_AUTHORIZED.search(ask(pacs, "echoscu", "WS1").stdout)


def test_the_first_rule_counts(pacs: PacsProcess) -> None:
    """WS9 has a rule that allows the echo, below one that fits as well and does not."""
    assert NOT_AUTHORIZED.search(ask(pacs, "echoscu", "WS9").stdout)


def test_find_by_the_rule(pacs: PacsProcess, instance: Dataset) -> None:
    found = ask(pacs, "findscu", "WS1", *keys(instance))
    assert found.returncode == 0
    assert "0xff00" in found.stdout
    refused = ask(pacs, "findscu", "CT1", *keys(instance))
    assert NOT_AUTHORIZED.search(refused.stdout), refused.stdout
    assert "0xff00" not in refused.stdout


def test_get_by_the_rule_brings_instances_to_a_peer_that_may_not_store(
    pacs: PacsProcess, instance: Dataset, tmp_path: Path
) -> None:
    done = ask(pacs, "getscu", "WS1", "-od", tmp_path, *keys(instance))
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.iterdir())) == 1
    assert NOT_AUTHORIZED.search(ask(pacs, "getscu", "CT1", "-od", tmp_path, *keys(instance)).stdout)


def test_move_only_where_the_rule_says(pacs: PacsProcess, review: dcmtk.StoreSCP, instance: Dataset) -> None:
    refused = ask(pacs, "movescu", "WS1", "-aem", "OTHER", *keys(instance))
    assert NOT_AUTHORIZED.search(refused.stdout), refused.stdout
    assert review.files() == []
    assert ask(pacs, "movescu", "WS1", "-aem", "REVIEW", *keys(instance)).returncode == 0
    assert len(review.files()) == 1


def test_a_peer_turned_away_is_let_in_by_the_suggested_rule(pacs: PacsProcess, tmp_path: Path) -> None:
    """The steps of the how-to: seen, suggested, pasted, reloaded."""
    directory = tmp_path / "own"
    with PacsProcess(directory, settings={"access_control": {"peers": PEERS}}) as server:
        assert ask(server, "echoscu", "NEW MR").returncode != 0
        command = ("--config", server.config_file, "peers", "seen")
        seen = json.loads(run_command(*command, "--rejected", "--json", cwd=tmp_path).stdout)
        assert [(p["calling_ae"], p["address"], p["outcome"]) for p in seen] == [
            ("NEW MR", "127.0.0.1", "calling_ae_title")
        ]
        assert seen[0]["implementation_version_name"].startswith("OFFIS_DCMTK")
        suggested = run_command(*command, "--suggest", "NEW MR", cwd=tmp_path)
        assert suggested.returncode == 0, suggested.stderr
        server.reload({"access_control": {"peers": [*PEERS, *yaml.safe_load(suggested.stdout)]}})
        assert ask(server, "echoscu", "NEW MR").returncode == 0
        assert ask(server, "echoscu", "US1").returncode != 0
