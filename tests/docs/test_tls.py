"""The commands of the page about TLS work when they are pasted."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dcmtk
import pytest
from processes import PacsProcess, clean_environment, wait_for
from pydicom.data import get_testdata_file

from benchmarks.server_process import ServerProcess
from pacs_server.config import Config, RemoteAEConfig
from pacs_server.config.tls import client_contexts

PAGE = "docs/tls.md"
STATEMENT = "docs/conformance-statement.md"
TLS_PORT, RECEIVER_PORT = "2762", "11113"


def _pasted(code: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    # pynetdicom has tools of the same names next to our Python.
    path = os.path.dirname(dcmtk.require("echoscu")) + os.pathsep + os.environ["PATH"]
    environment = clean_environment(PATH=path, **variables)
    return subprocess.run(
        ["bash", "-e", "-c", code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.interop
def test_the_page_from_top_to_bottom(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    with _kept_port() as tls_port, _kept_port() as receiver_port:
        _follow(code_blocks, tmp_path, str(tls_port), str(receiver_port))


@contextmanager
def _kept_port() -> Iterator[int]:
    """A port that nobody else is given; who sets SO_REUSEADDR, as servers do, may listen on it."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


def _follow(code_blocks: Callable[[str, str], list[str]], tmp_path: Path, tls_port: str, receiver_port: str) -> None:

    def here(code: str) -> str:
        return re.sub(rf"\b{TLS_PORT}\b", tls_port, re.sub(rf"\b{RECEIVER_PORT}\b", receiver_port, code))

    authority, machines, calls, receiver, move, replace, revoke = map(here, code_blocks(PAGE, "sh"))
    [settings] = map(here, code_blocks(PAGE, "yaml"))
    shutil.copy(str(get_testdata_file("CT_small.dcm")), tmp_path / "image.dcm")
    (tmp_path / "pacs_server.yaml").write_text(settings)

    def paste(code: str, **variables: str) -> str:
        done = _pasted(code, tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    paste(authority + machines)
    environment = {
        "PACS_SERVER__SERVER__PORT": "0",
        "PACS_SERVER__MONITORING__METRICS_PORT": "0",
        "PACS_SERVER__WEB__PORT": "0",
    }
    arguments = ["--config", str(tmp_path / "pacs_server.yaml")]
    with PacsProcess(tmp_path, arguments=arguments, environment=environment) as pacs:
        assert "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322" in paste(calls)
        (tmp_path / "received").mkdir()
        with _Receiver(tmp_path, receiver, int(receiver_port)):
            paste(re.sub(r"\b11112\b", str(pacs.port), move))
        assert len(list((tmp_path / "received").iterdir())) == 1
        pid = str(pacs.pid)
        definitions = machines.partition("}\n")[0] + "}\n"
        before = (tmp_path / "certs" / "server.crt").read_bytes()
        paste(definitions + replace, PACS_SERVER_PID=pid)
        assert (tmp_path / "certs" / "server.crt").read_bytes() != before
        wait_for(lambda: pacs.metric("pacs_config_reloads_total") == 1, "the reload")
        paste(calls)
        paste(revoke, PACS_SERVER_PID=pid)
        wait_for(lambda: pacs.metric("pacs_config_reloads_total") == 2, "the reload")
        assert _pasted(calls, tmp_path).returncode != 0
        wait_for(lambda: "certificate revoked" in pacs.log(), "the reason in the log")
        assert pacs.stop() == 0


class _Receiver(ServerProcess):
    """The storescp of the page."""

    def __init__(self, directory: Path, code: str, port: int) -> None:
        super().__init__(directory / "storescp.log")
        self._directory = directory
        self._wanted = port
        self._code = code.replace("mkdir received\n", "")

    def command(self) -> list[str]:
        self.port = self._wanted
        storescp = dcmtk.require("storescp")
        code = self._code.replace("storescp", f"exec {storescp}", 1)
        return ["bash", "-e", "-c", f"cd {self._directory}\n{code}"]


def test_the_statement_names_the_suites_that_are_offered(document: Callable[[str], str]) -> None:
    remote = RemoteAEConfig(ae_title="A", host="h", port=1, tls=True)
    offered = client_contexts(Config(remote_aes=(remote,)))[True].get_ciphers()
    of_tls_1_3 = [suite["name"] for suite in offered if suite["protocol"] == "TLSv1.3"]
    assert f"| Suites of TLS 1.3 | {', '.join(f'`{name}`' for name in of_tls_1_3)} |" in document(STATEMENT)
