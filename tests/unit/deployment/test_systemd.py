"""The systemd unit against the code, and against systemd itself where that is installed."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pacs_server.config import Config

UNIT = Path(__file__).parents[3] / "docs" / "pacs-server.service"


class _Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _service() -> dict[str, str]:
    # SystemCallFilter stands there twice, which systemd reads as one list.
    parser = _Unit(strict=False, comment_prefixes=("#",))
    parser.read(UNIT)
    assert parser.sections() == ["Unit", "Service", "Install"]
    return dict(parser["Service"])


def test_it_is_stopped_with_patience_and_started_again() -> None:
    service = _service()
    assert int(service["TimeoutStopSec"]) > Config().server.shutdown_timeout
    assert service["Restart"] == "on-failure"
    assert int(service["LimitNOFILE"]) > 2 * Config().server.max_connections
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_it_is_not_root_and_writes_below_its_own_directories_only() -> None:
    service = _service()
    assert service["User"] not in ("", "root", "0")
    assert service["UMask"] == "0077"
    assert service["ProtectSystem"] == "strict"
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    assert service["StateDirectoryMode"] == service["LogsDirectoryMode"] == "0700"
    assert "ReadWritePaths" not in service
    assert service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    switched = [key for key in service if key.startswith(("Protect", "Private", "Restrict", "NoNew", "Memory", "Lock"))]
    told = {"ProtectSystem", "ProtectProc", "RestrictAddressFamilies"}
    assert {service[key] for key in switched if key not in told} == {"yes"}
    assert len(switched) >= 15


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_knows_every_word_of_it(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # The program need not be installed on the machine of the tests.
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
