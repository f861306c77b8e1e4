"""What an operator does with a server that is at work, one command after the other, and what has to be true of it."""

import itertools
import json
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from datasets import data_set_bytes, make_study, uid, write_part10
from processes import run_command, wait_for
from workload import Broken, Workload, digest

_COMMAND_SECONDS = 100.0


class Operator:
    """Somebody with a shell on the machine of the server, whose peers do `work`."""

    def __init__(self, work: Workload) -> None:
        self._work = work
        self._pacs = work.pacs
        acts = (self._import, self._delete, self._verify, self._merge, self._back_up, self._reload)
        self._acts: itertools.cycle[Callable[[], None]] = itertools.cycle(acts)

    def act(self) -> None:
        """Do the next thing."""
        next(self._acts)()

    def check(self) -> None:
        """Hold that the last backup can be read back."""
        self.command("backup", "--verify", self._backups)

    def command(self, *args: object) -> str:
        """What a command prints; it has to succeed."""
        config = ("--config", self._pacs.config_file)
        done = run_command(*config, *args, cwd=self._pacs.directory, timeout=_COMMAND_SECONDS)
        assert done.returncode == 0, f"{args[0]}: {done.stdout[-1000:]} {done.stderr[-1000:]}"
        return done.stdout

    @property
    def _backups(self) -> Path:
        return self._pacs.directory.parent / "backups"

    def _import(self) -> None:
        instances = make_study(1, 2)
        sent = {}
        with tempfile.TemporaryDirectory() as folder:
            for instance in instances:
                path = write_part10(instance, Path(folder) / f"{instance.SOPInstanceUID}.dcm")
                sent[str(instance.SOPInstanceUID)] = digest(data_set_bytes(path)[1])
            self.command("import", folder)
        self._work.know(str(instances[0].StudyInstanceUID), sent)

    def _delete(self) -> None:
        """Into the trash and back again."""
        study, sent = self._work.sent()
        self.command("delete", "study", study, "--reason", "soak", "--yes")
        if self._work.finds(study):
            raise Broken(f"{study} is found after it was deleted")
        (deletion,) = [each for each in json.loads(self.command("trash", "list", "--json")) if each["uid"] == study]
        self.command("trash", "restore", deletion["id"])
        self._work.know(study, sent)

    def _verify(self) -> None:
        self.command("verify", "--no-digest")

    def _merge(self) -> None:
        number = uid().rpartition(".")[2]
        (one, sent), (other, others) = (self._work.sent(PatientID=f"{who}{number}") for who in "AB")
        self.command("merge", f"A{number}", "--into", f"B{number}", "--reason", "soak")
        if not self._work.finds(one, f"B{number}") or self._work.finds(one, f"A{number}"):
            raise Broken(f"{one} is not the other patient's after a merge")
        self._work.know(one, sent)
        self._work.know(other, others)

    def _back_up(self) -> None:
        self.command("backup", self._backups)

    def _reload(self) -> None:
        with self._work.configuring:
            before = self._pacs.metric("pacs_config_reloads_total")
            self._pacs.send_signal(signal.SIGHUP)
            wait_for(lambda: self._pacs.metric("pacs_config_reloads_total") > before, "a reload")
