"""The server as a container or a sandbox has it: a user without rights, and one directory to write to."""

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pytest
from processes import PacsProcess, run_command, wait_for
from pydicom import dcmread
from pydicom.data import get_testdata_file

NOBODY = 65534
DAC_READ_SEARCH = 1 << 2
# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), which holds for whatever is executed afterwards: what
# MemoryDenyWriteExecute= of systemd does by other means. Old kernels do not have it.
NO_NEW_CODE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.environ.pop('HOME', None); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
# What makes, changes or takes away a file.
CALLS = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,chmod"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="pacs-server-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def pacs(place: Path) -> PacsProcess:
    missing = [tool for tool in ("strace", "setpriv") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs to be root, to become nobody; not there: {missing or 'nothing'}")
    data = place / "data"
    data.mkdir(mode=0o700)
    os.chown(data, NOBODY, NOBODY)
    settings = {
        "storage": {"directory": str(data / "archive"), "min_free_space": 0},
        "database": {"url": None, "path": str(data / "pacs.db")},
        "audit": {"directory": str(data / "audit")},
        "user_identity": {"mode": "optional", "users_path": str(data / "users")},
        "logging": {"file": str(data / "pacs.log")},
    }
    # A Python in somebody's home is out of reach for nobody, who then may read all the same, and nothing more.
    caps = "-all" if all(map(_is_for_everybody, (sys.base_prefix, sys.prefix))) else "-all,+dac_read_search"
    confined = (
        *("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"),
        *("--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps),
        *(sys.executable, "-c", NO_NEW_CODE),
    )
    prefix = ("strace", "-f", "-s", "4096", "-o", place / "trace", "-e", f"trace={CALLS}", *confined)
    return PacsProcess(place / "work", settings=settings, prefix=[str(word) for word in prefix])


def _is_for_everybody(directory: str) -> bool:
    path = Path(directory).resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def written(trace: str) -> set[str]:
    """The paths that calls which succeeded made, changed or took away."""
    found = set()
    for line in trace.splitlines():
        call = _CALL.match(line)
        if call is None or call[3] == "-1":
            continue
        if not call[1].startswith("open") or re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", call[2]):
            found |= set(re.findall(r'"([^"]*)"', call[2]))
    return found


@pytest.mark.interop
def test_it_works_and_writes_to_its_data_only(pacs: PacsProcess, place: Path) -> None:
    arguments = ("--config", pacs.config_file, "user", "add", "anna", "--password-stdin")
    typing = ("sh", "-c", 'echo "long enough" | "$@"', "sh", *pacs.prefix[pacs.prefix.index("setpriv") :])
    done = run_command(*arguments, cwd=pacs.directory, prefix=typing)
    assert (done.returncode, done.stdout) == (0, "user anna added as contributor\n"), done.stderr
    pacs.directory.chmod(0o555)
    image = Path(get_testdata_file("JPEG2000.dcm", download=False))
    with pacs:
        status = Path(f"/proc/{pacs.pid}/status").read_text()
        about = dict(line.split(":\t", 1) for line in status.splitlines())
        assert about["Uid"].split() == [str(NOBODY)] * 4
        assert about["NoNewPrivs"] == "1"
        assert int(about["CapEff"], 16) & ~DAC_READ_SEARCH == 0
        assert "running as root" not in pacs.log()
        done = dcmtk.run("storescu", "-xw", "-usr", "anna", "-pwd", "long enough", pacs.host, pacs.port, image)
        assert done.returncode == 0, done.stderr
        # The image is decoded for it, by native code.
        (place / "got").mkdir()
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={dcmread(image).StudyInstanceUID}")
        done = dcmtk.run("getscu", "-S", "+xe", "-od", place / "got", *keys, pacs.host, pacs.port)
        assert done.returncode == 0, done.stderr
        [got] = (place / "got").iterdir()
        assert dcmread(got).pixel_array.shape == (1024, 256)
        assert pacs.get("/readyz")[0] == 200
        wait_for(lambda: pacs.instances() == 1, "the instance in the index")
    paths = written((place / "trace").read_text(errors="replace"))
    assert {f"{place}/data/{name}" for name in ("archive", "pacs.db", "audit/head", "pacs.log")} <= paths
    assert [path for path in sorted(paths) if not path.startswith((f"{place}/data/", "/dev/null"))] == []
    assert sorted(path.name for path in pacs.directory.iterdir()) == ["pacs.yaml", "stderr.log"]
