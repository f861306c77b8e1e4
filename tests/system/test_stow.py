"""STOW-RS keeps the promises of C-STORE: what was acknowledged survives a kill, and memory is bounded."""

import hashlib
import http.client
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import data_set_bytes, make_ct, make_study
from processes import PacsProcess, wait_for
from pydicom.dataset import Dataset
from webclients import BOUNDARY, RELATED, part10, related

MEBIBYTE = 1 << 20
STUDIES = "/dicom-web/studies"


def pacs_with_web(directory: Path) -> PacsProcess:
    return PacsProcess(directory, settings={"web": {"enabled": True}})


def huge(frames: int) -> tuple[Iterator[bytes], int]:
    """A multi-frame image with frames of 1 MiB: as a body of one part that is made while it is sent, and its length."""
    ds = make_ct(rows=1, columns=1)
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames, 512, 1024
    del ds.PixelData
    start = related([part10(ds)], end=False).removesuffix(b"\r\n")
    start += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, frames * MEBIBYTE)
    end = f"\r\n--{BOUNDARY}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield start
        for number in range(frames):
            yield number.to_bytes(4, "little") * (MEBIBYTE // 4)
        yield end

    return body(), len(start) + frames * MEBIBYTE + len(end)


@pytest.mark.alone
def test_300_mebibytes_in_flat_memory(tmp_path: Path) -> None:
    body, length = huge(300)
    with pacs_with_web(tmp_path / "pacs") as pacs:
        client = http.client.HTTPConnection(*pacs.web, timeout=60)
        client.request("POST", STUDIES, related([part10(make_ct())]), {"Content-Type": RELATED})
        assert client.getresponse().read()
        before = pacs.reset_peak_memory()
        client.request("POST", STUDIES, body, {"Content-Type": RELATED, "Content-Length": str(length)})
        assert client.getresponse().status == 200
        assert pacs.memory() - before < 32 * MEBIBYTE
        client.close()
        [path] = [path for path in pacs.files() if path.stat().st_size > MEBIBYTE]
        with path.open("rb") as file:
            file.seek(path.stat().st_size - 300 * MEBIBYTE)
            for number in range(300):
                assert file.read(MEBIBYTE)[:4] == number.to_bytes(4, "little")
        path.unlink()


def send_until_cut(web: tuple[str, int], instances: list[Dataset], acknowledged: set[str]) -> None:
    """Store the instances three in a request until the server is gone."""
    client = http.client.HTTPConnection(*web, timeout=60)
    try:
        for at in range(0, len(instances), 3):
            sent = {str(ds.SOPInstanceUID): part10(ds) for ds in instances[at : at + 3]}
            client.request("POST", STUDIES, related(sent.values()), {"Content-Type": RELATED})
            answer = client.getresponse()
            answer.read()
            if answer.status == 200:
                acknowledged.update(sent)
    except (OSError, http.client.HTTPException):
        pass
    finally:
        client.close()


def test_what_was_acknowledged_survives_a_kill_in_the_middle(tmp_path: Path) -> None:
    instances = make_study(4, 40, rows=64, columns=64)
    acknowledged: set[str] = set()
    pacs = pacs_with_web(tmp_path / "pacs")
    pacs.start()
    threads = [
        threading.Thread(target=send_until_cut, args=(pacs.web, instances[n::4], acknowledged)) for n in range(4)
    ]
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: len(acknowledged) >= 20, "twenty acknowledged instances")
    finally:
        pacs.kill()
        for thread in threads:
            thread.join(60)
    assert 20 <= len(acknowledged) < len(instances), "the kill did not come in the middle"
    with pacs:
        assert pacs.incoming() == []
        stored = {hashlib.sha256(data_set_bytes(path)[1]).hexdigest() for path in pacs.files()}
        sent = {str(ds.SOPInstanceUID): ds for ds in instances}
        path = tmp_path / "one.dcm"
        for uid in acknowledged:
            path.write_bytes(part10(sent[uid]))
            assert hashlib.sha256(data_set_bytes(path)[1]).hexdigest() in stored
        assert pacs.instances() >= len(acknowledged)
        client = http.client.HTTPConnection(*pacs.web, timeout=60)
        client.request("POST", STUDIES, related(map(part10, instances)), {"Content-Type": RELATED})
        answer = client.getresponse()
        assert answer.status == 200
        answer.read()
        client.close()
        assert pacs.instances() == len(instances)
