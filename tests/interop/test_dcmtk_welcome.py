"""The commands that the server prints when it has started, run as they stand there."""

import shlex
from pathlib import Path

import dcmtk
import pytest
from certificates import Authority
from datasets import make_ct, write_part10
from servers import config, running

from pacs_server.app.welcome import welcome
from pacs_server.config import AccessControlConfig

pytestmark = pytest.mark.interop


@pytest.mark.parametrize(
    ("title", "rules"),
    [
        ("PACS", {}),
        ("MY PACS", {"peers": [{"ae_title": "CT1"}]}),
        ("PACS", {"allowed_ae_titles": ["CT?", "MR*"]}),
        ("PACS", {"peers": [{"ae_title": "FAR", "addresses": ["192.0.2.0/24"]}, {"ae_title": "NEAR", "allow": ["echo"]},
                            {"ae_title": "SAFE", "require_tls": True, "allow": ["store"]}]}),
    ],
)  # fmt: skip
def test_each_of_them_works(tmp_path: Path, authority: Authority, title: str, rules: dict[str, object]) -> None:
    settings = config(tmp_path, ae_title=title, check_called_ae_title=True).model_copy(
        update={"access_control": AccessControlConfig.model_validate(rules), "tls": authority.settings(port=0)}
    )
    image = write_part10(make_ct(), tmp_path / "image.dcm")
    with running(settings) as pacs:
        tried = [line for line in welcome(settings, pacs._runtime.addresses) if "scu" in line]
        assert len(tried) == 2
        for line in tried:
            tool, *arguments = shlex.split(line.removeprefix("try:"))
            done = dcmtk.run(tool, *(image if argument == "image.dcm" else argument for argument in arguments))
            assert done.returncode == 0, (line, done.stderr)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")
