"""`pacs-server serve-temporary`: its addresses, what lines of JSON ask of it, and its end with standard input."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from commandline import call_command
from datasets import make_ct, write_part10

LINES: list[dict[str, Any] | str] = [
    {"do": "fault", "rule": "status", "arguments": ["C-STORE", 0xA700], "times": 1},
    {"do": "fault", "rule": "reject", "destination": "SECOND"},
    {"do": "fault", "rule": "no such rule"},
    {"do": "fault", "rule": "take"},
    {"do": "fault"},
    {"do": "fault", "rule": "reject", "destination": "NOBODY"},
    {"do": "fault", "rule": "http_slow", "bytes_per_second": 0},
    {"do": "clear"},
    {"do": "worklist", "PatientName": "Doe^Jane"},
    {"do": "worklist", "NoSuchKeyword": "x"},
    {"do": "destination", "ae_title": "MINE", "port": 11113},
    {"do": "wait", "received": 0},
    {"do": "wait", "sent": 1, "seconds": 0},
    {"do": "dance"},
    "nonsense",
    "",
    {"do": "show"},
]


def test_a_line_for_each_thing_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    studies = write_part10(make_ct(), tmp_path / "studies" / "a.dcm").parent
    typed = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in LINES).encode()
    command = ("serve-temporary", "--json", "--ae-title", "TEMP", "--destination", "FIRST", "--destination", "SECOND")
    result = call_command(*command, "--studies", studies, cwd=tmp_path, typed=typed)
    assert result.returncode == 0, result.stderr
    where, *answers = map(json.loads, result.stdout.splitlines())
    assert (where["ae_title"], where["host"], where["tls_port"]) == ("TEMP", "127.0.0.1", None)
    assert where["dicomweb_url"] == f"{where['url']}/dicom-web"
    assert list(where["destinations"]) == ["FIRST", "SECOND"]
    goes = [answer["ok"] for answer in answers]
    refused = [2, 3, 4, 5, 6, 9, 12, 13, 14]
    assert goes == [number not in refused for number in range(16)]
    assert answers[4]["error"] == "'rule' is missing, or there is none"
    assert answers[12]["error"].startswith("waited for 0 s in vain: sent: 0 of 1\n")
    shown = answers[-1]
    assert shown["worklist"][0]["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    assert (shown["received"], shown["sent"], shown["operations"]) == ([], [], [])
    assert not [name for name in os.listdir(tmp_path) if name.startswith("pacs-server-")]


def test_what_it_cannot_hold_is_named(tmp_path: Path) -> None:
    result = call_command("serve-temporary", "--studies", "/nowhere", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "studies: /nowhere: " in result.stderr
