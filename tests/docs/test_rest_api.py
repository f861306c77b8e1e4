"""The examples of the page about the REST API work as they stand there, against a server."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import make_ct
from servers import config, running, store

from pacs_server.config import RemoteAEConfig
from pacs_server.config.rights import Rights
from pacs_server.web.api.operation import PREFIX

PAGE = "docs/rest-api.md"
STUDY = "1.2.840.113619.2.5.1762583153.215519.978957063.78"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_work(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    blocks = code_blocks(PAGE, "sh")
    assert len(blocks) >= 5
    remote = RemoteAEConfig(ae_title="WS1", host="127.0.0.1", port=9)
    with running(config(tmp_path, web=True, remote_aes=[remote])) as pacs:
        store(pacs, make_ct(STUDY, PatientName="Doe^Jane", StudyDate="20260131"))
        assert pacs.web_address is not None
        address = "{}:{}".format(*pacs.web_address)
        commands = [each for block in blocks for each in re.split(r"\n(?=curl )", block)]
        commands = [command.replace("127.0.0.1:8080", address) for command in commands]
        without = [command for command in commands if "$KEY" not in command]
        printed = [_run(command, "", tmp_path) for command in without]
        # From now on nothing goes without a key.
        key = pacs.archive.keys.create("script", Rights("operator"), None)
        printed += [_run(command, key, tmp_path) for command in commands[len(without) :]]
    status, studies, unread, listed, study, note, history, *printed = printed
    added, items, cancelled, events, sent, unsent, paused, refused, dead, deleted = printed
    assert json.loads(status)["ready"] is True
    assert [row["StudyInstanceUID"] for row in json.loads(studies)["items"]] == [STUDY]
    assert [row["reading"] for row in json.loads(unread)["items"]] == ["unread"]
    assert "items" in json.loads(listed)
    assert json.loads(study)["stored"]["instances"] == 1
    assert json.loads(note)["text"] == "Second look, please."
    assert [row["what"] for row in json.loads(history)["items"]] == ["received"]
    assert json.loads(added)["items"] == json.loads(items)["items"]
    assert json.loads(cancelled)["status"] == "CANCELLED"
    assert events.startswith("retry: ")
    assert [row["remote"] for row in json.loads(sent)["items"]] == ["WS1"]
    assert json.loads(unsent)["items"] == []
    assert json.loads(paused)["state"] == "paused"
    assert json.loads(refused)["items"] == json.loads(dead)["items"] == []
    assert json.loads(deleted)["reason"] == "sent by mistake"


def _run(command: str, key: str, directory: Path) -> str:
    assert PREFIX in command
    # As a shell on a desk runs it; curl ends with 28 when its time is over, as the example of events says.
    environment = os.environ | {"KEY": key}
    done = subprocess.run(
        ["sh", "-c", command],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == (28 if "--max-time" in command else 0), done.stderr
    return done.stdout


def test_the_roles_are_those_of_the_operations(rows: Callable[..., list[list[str]]]) -> None:
    told = [row[0] for row in rows(PAGE, "Who may do what")]
    assert told == ["reader", "contributor", "operator", "administrator"]
