"""`pacs-server sample`: sample studies come and go."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import make_ct

from pacs_server.services import samples

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_sample_studies_come_and_go(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")
    monkeypatch.setattr(samples, "SAMPLES", (replace(samples.SAMPLES[2], size=32),))
    make_ct(PatientID="P1").save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert run("import", "image.dcm")[0] == 0
    assert run("sample")[0] == 0
    found = json.loads(run("find", "studies", "--patient-id", "SAMPLE*", "--json")[1])
    assert [row["PatientID"] for row in found] == ["SAMPLE-3"]
    assert run("sample", "--remove")[:2] == (0, "1 sample study moved into the trash\n")
    found = json.loads(run("find", "studies", "--json")[1])
    assert [row["PatientID"] for row in found] == ["P1"]
