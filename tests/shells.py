"""A shell for the commands of a page: they run one after the other, and names on the page stand for others."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import dcmtk
from commandline import call_command
from processes import clean_environment

# What a name of the page stands for; a function is asked when a command has the name, and knows what came before.
Names = dict[str, str | Callable[[], str]]
_SECONDS = 60


class Shell:
    """Runs commands in `directory`. Who is asked for a password types `password`, and "y" to all other questions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names: Names = {}
        self.password = "correct horse"
        self._umask = ""
        home = directory / "home"
        home.mkdir(parents=True)
        # An answer that is no success is a failure, and no progress is shown.
        (home / ".curlrc").write_text("fail\nsilent\nshow-error\n")
        # DCMTK's tools come first: pynetdicom has some of the same names.
        places = (str(Path(dcmtk.require("storescu")).parent), str(Path(sys.executable).parent), os.environ["PATH"])
        own = clean_environment(PATH=os.pathsep.join(places), HOME=str(home), CURL_HOME=str(home))
        # The tests may have been started by make.
        self.environment = {name: value for name, value in own.items() if not name.startswith("MAKE")}

    def run(self, command: str) -> tuple[int, str]:
        """The exit code, and what was printed to standard output and standard error."""
        command = self.here(command)
        if found := re.fullmatch(r"export (\w+)=(\S+)", command):
            self.environment[found[1]] = found[2]
            return 0, ""
        return self._in_process(command) or self._by_bash(command)

    def here(self, text: str) -> str:
        """A text of the page with the names of this machine."""
        for name, stands_for in list(self.names.items()):
            pattern = rf"(?<![\w.@]){re.escape(name)}(?!\.?\w)"
            if re.search(pattern, text):
                other = stands_for() if callable(stands_for) else stands_for
                text = re.sub(pattern, other.replace("\\", r"\\"), text)
        return text

    def _in_process(self, command: str) -> tuple[int, str] | None:
        """What `pacs-server` does in this process, which takes a fraction of the time; None if that takes a shell."""
        words = list(shlex.shlex(command, posix=True, punctuation_chars=True))
        operators = [word for word in words if set(word) <= {*"();<>|&"}]
        words = shlex.split(command, comments=True)
        variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        words = words[len(variables) :]
        if words[0].rpartition("/")[2] != "pacs-server" or operators not in ([], ["<"]) or "$" in command:
            return None
        typed, terminal = b"y\n", True
        if operators:
            typed, terminal = (self.directory / words[-1]).read_bytes(), False
            words = words[:-2]
        printed: list[str] = []

        def asked(prompt: str) -> str:
            printed.append(f"{prompt}\n")
            return self.password

        with mock.patch("getpass.getpass", asked):
            own = {name: value for name, value in self.environment.items() if name.startswith("PACS_SERVER_")}
            done = call_command(
                *words[1:], cwd=self.directory, typed=typed, terminal=terminal, **{"HOME": "/", **own, **variables}
            )
        return done.returncode, "".join([*printed, done.stdout, done.stderr])

    def _by_bash(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", self._umask + command], cwd=self.directory, env=self.environment, timeout=_SECONDS,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        # It stays for the commands that follow.
        self._umask = "".join(re.findall(r"umask \d+", command)[-1:]) + "\n" if "umask " in command else self._umask
        return done.returncode, done.stdout
