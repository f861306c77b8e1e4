"""The real server as a child process: started, looked at, signalled and killed from outside."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import schema
import yaml
from warm import WarmProcess

from pacs_server.storage.keys import RESERVED

START_SECONDS = 60.0
STOP_SECONDS = 60.0
# How long a server that hangs may take to write down where its threads are.
DUMP_SECONDS = 10.0
# The servers that were started and have not ended.
_started: "set[PacsProcess]" = set()
COMMAND = (str(Path(sys.executable).with_name("pacs-server")),)
_LISTENING = re.compile(r"pacs-server \S+ listening on (\S+) port (\d+) as (.+)")
_MONITORING = re.compile(r"monitoring at (http://\S+)/status")
_WEB = re.compile(r"web at https?://(\S+):(\d+)/")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true value of `condition`; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.01)
    return value


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of the server, plus `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PACS_SERVER_")}
    return kept | {"PYTHONWARNINGS": "default", "PYTHONFAULTHANDLER": "1"} | variables


def _is_ours(environment: Mapping[str, str]) -> bool:
    """Whether nothing of it is for Python and its libraries, which look at it when they are imported."""
    return all(name.startswith("PACS_SERVER_") for name in environment)


def _is_in_use(path: Path) -> bool:
    """Whether something in `incoming/` is neither a lock nor an empty slot."""
    try:
        return path.suffix != ".lock" and path.stat().st_size > 0
    except FileNotFoundError:
        return False


def run_command(
    *args: object, cwd: Path, prefix: Sequence[str] = (), fresh: bool = False, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `pacs-server` with `args` to its end, output captured as text.

    Unless it is `fresh`, or has a prefix, the process need not import anything; see `warm`.
    """
    if not fresh and not prefix and _is_ours(environment):
        arguments = tuple(map(str, args))
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = WarmProcess(
                arguments, cwd=cwd, env=clean_environment(**environment), stdout=out.fileno(), stderr=err.fileno()
            )
            try:
                process.wait(timeout)
            finally:
                process.kill()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(process.args, process.wait(), out.read(), err.read())
    return subprocess.run(
        [*prefix, *COMMAND, *map(str, args)],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def none_left() -> Iterator[None]:
    """At the end the servers that were started meanwhile and still run are killed: those of a test that has failed."""
    before = set(_started)
    yield
    for pacs in _started - before:
        pacs.abandon()


@dataclass(eq=False)
class PacsProcess:
    """pacs-server in a directory of its own, between `with` and the end of it; may be stopped and started again.

    `settings` are sections of the configuration, over ones that suit tests. `arguments` replaces
    the use of a configuration file, `prefix` is a command to run the server under. Unless it is `fresh`, or has a
    prefix, the process need not import anything; see `warm`.
    """

    directory: Path
    database_url: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    fresh: bool = False
    host: str = ""
    port: int = 0
    ae_title: str = ""
    monitoring: str = ""
    web: tuple[str, int] = ("", 0)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_file = self.directory / "pacs.yaml"
        self.archive = self.directory / "archive"
        if self.database_url is None and "database" not in self.settings:
            schema.prepare(self.directory / "pacs.db")
        self.configure(self.settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write the configuration file, which the server reads at its start and on SIGHUP."""
        url = self.database_url or f"sqlite:///{self.directory / 'pacs.db'}"
        sections: dict[str, Any] = {
            "server": {"port": 0},
            "monitoring": {"metrics_port": 0},
            "web": {"enabled": False, "port": 0},
            "storage": {"directory": str(self.archive), "min_free_space": 0},
            "database": {"url": url},
            "audit": {"directory": str(self.directory / "audit")},
        }
        for name, section in settings.items():
            sections[name] = section if isinstance(section, list) else sections.get(name, {}) | section
        self._web = sections["web"]["enabled"]
        self.config_file.write_text(yaml.safe_dump(sections))

    # ---------------------------------------------------------------- lifecycle

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            try:
                self.stop()
            finally:
                self._process.kill()
        else:
            self._finish()

    def start(self) -> None:
        """Start the server and wait until it says that it listens."""
        self._launch()
        listening = self._line(_LISTENING)
        self.host, self.port, self.ae_title = listening[1], int(listening[2]), listening[3]
        self.monitoring = self._line(_MONITORING)[1]
        if self._web:
            web = self._line(_WEB)
            self.web = web[1], int(web[2])
        self.pid = self._own_pid()

    def start_and_kill(self, seconds: float) -> None:
        """Start the server and kill it so many seconds later, whatever it has come to."""
        self._launch()
        time.sleep(seconds)
        self._process.kill()
        self.wait()

    def _launch(self) -> None:
        arguments = ["--config", str(self.config_file)] if self.arguments is None else self.arguments
        self._stderr = self.directory / "stderr.log"
        environment = clean_environment(**self.environment)
        with self._stderr.open("ab") as log:
            self._process: subprocess.Popen[str] | WarmProcess
            if self.fresh or self.prefix or not _is_ours(self.environment):
                self._process = subprocess.Popen(
                    [*self.prefix, *COMMAND, *arguments],
                    cwd=self.directory,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            else:
                self._process = WarmProcess(
                    arguments, cwd=self.directory, env=environment, stdout=subprocess.PIPE, stderr=log.fileno()
                )
        _started.add(self)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send_signal(self, number: signal.Signals) -> None:
        """Send the server a signal, if it lives."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def reload(self, settings: Mapping[str, Any]) -> None:
        """Write the configuration anew, send SIGHUP and wait until the server has looked at it."""
        self.configure(settings)
        before = self.metric("pacs_config_reloads_total")
        self.send_signal(signal.SIGHUP)
        wait_for(lambda: self.metric("pacs_config_reloads_total") > before, "a reload")

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end of the server and return its exit code."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end in {seconds:g} s: {self._where_it_hangs()}") from None
        self._finish()
        return code

    def _where_it_hangs(self) -> str:
        """End the server in a way that writes down where its threads are; returns the end of its log."""
        self.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(DUMP_SECONDS)
        return self.log()[-20_000:]

    def stop(self) -> int:
        """End the server with SIGTERM and return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def abandon(self) -> None:
        """Kill what was started, whether it has come to listen or not."""
        if self.prefix and self.running():
            with suppress(OSError, IndexError):
                os.kill(self._own_pid(), signal.SIGKILL)
        self._process.kill()
        self.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _line(self, pattern: re.Pattern[str]) -> re.Match[str]:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                self._process.kill()
                self.wait()
                raise AssertionError(f"the server did not start: {self.log()}")
            if found := pattern.match(line):
                return found

    def _own_pid(self) -> int:
        """The server's pid: the child itself, or the child of the command it runs under."""
        if not self.prefix:
            return self._process.pid
        task = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(task.read_text().split()[0])

    def _finish(self) -> None:
        _started.discard(self)
        assert self._process.stdout is not None
        self._reader.join(STOP_SECONDS)
        self._process.stdout.close()

    # ---------------------------------------------------------------- looking at it

    def log(self) -> str:
        """What the server wrote to standard error, over all its starts."""
        return self._stderr.read_text(errors="replace")

    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def get(self, path: str) -> tuple[int, str]:
        """Status code and body of a page of the monitoring port."""
        try:
            with build_opener(ProxyHandler({})).open(self.monitoring + path, timeout=20) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> dict[str, Any]:
        """What /status says."""
        parsed: dict[str, Any] = json.loads(self.get("/status")[1])
        return parsed

    def metric(self, name: str) -> float:
        """The value of a metric, summed over its labels; 0 before it was counted."""
        samples = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return sum(map(float, samples))

    def instances(self) -> int:
        """How many instances the index holds; the status does not say while the database takes long to answer."""
        return int(wait_for(lambda: self.status()["counts"], "the database to answer")["instances"])

    def files(self) -> list[Path]:
        """Every file of an instance, also of older versions."""
        return sorted(
            path
            for path in self.archive.rglob("*")
            if path.is_file() and path.relative_to(self.archive).parts[0] not in RESERVED
        )

    def incoming(self) -> list[Path]:
        """The half received files, and those that wait for a checkpoint."""
        return sorted(path for path in (self.archive / "incoming").iterdir() if _is_in_use(path))

    def incoming_files(self) -> int:
        """How many files are received, or kept by their slots only; empty slots are none."""
        return len(self.incoming())

    def reset_peak_memory(self) -> int:
        """Forget the peak of the resident memory so far; returns the present size in bytes."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.memory("VmRSS")

    def memory(self, name: str = "VmHWM") -> int:
        """Resident memory in bytes: its peak, or VmRSS for the present."""
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def cpu_ticks(self) -> int:
        """Clock ticks of CPU time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
