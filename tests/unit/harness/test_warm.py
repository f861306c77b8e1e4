"""Forked processes of `pacs-server` behave as new ones do."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from processes import PacsProcess, run_command
from warm import WarmProcess

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("arguments", [["--version"], ["verify", "--config", "no.yaml"]])
def test_output_and_exit_code_are_those_of_a_new_process(tmp_path: Path, arguments: list[str]) -> None:
    new = run_command(*arguments, cwd=tmp_path, fresh=True)
    warm = run_command(*arguments, cwd=tmp_path)
    assert (warm.returncode, warm.stdout, warm.stderr) == (new.returncode, new.stdout, new.stderr)


def test_it_has_no_descriptors_but_its_own_and_ends_as_it_is_told(tmp_path: Path) -> None:
    with PacsProcess(tmp_path / "pacs") as pacs, PacsProcess(tmp_path / "other") as other:
        assert pacs.pid != other.pid
        assert {pacs.running(), other.running()} == {True}
        places = [os.readlink(each) for each in Path(f"/proc/{pacs.pid}/fd").iterdir()]
        assert not [place for place in places if "other" in place]
        other.send_signal(signal.SIGKILL)
        assert other.wait() == -signal.SIGKILL
        assert pacs.stop() == 0
    assert not pacs.running()


def test_waiting_has_its_limit(tmp_path: Path) -> None:
    with PacsProcess(tmp_path / "pacs") as pacs:
        process = pacs._process
        assert isinstance(process, WarmProcess)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
