"""The modules of the quick look that touch no page, run by node; and what its page says."""

import json
import shutil
import subprocess
from pathlib import Path

import npm

from pacs_server.web.pages.assets import FOLDER


def test_modules_without_a_page(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "look", tmp_path / "look")
    (tmp_path / "package.json").write_text(json.dumps({"type": "module"}), encoding="utf-8")
    script = shutil.copy(Path(__file__).with_name("look.test.mjs"), tmp_path)
    done = subprocess.run([npm.node(), script], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_is_announced() -> None:
    # The browser fetches them all at once then, instead of one after the other as they name each other.
    page = (FOLDER.parent / "templates" / "look.html").read_text(encoding="utf-8")
    for path in (FOLDER / "look").glob("*.js"):
        assert f'"{path.stem}"' in page or path.stem == "look"
