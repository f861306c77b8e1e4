"""Hooks of mkdocs: README.md is the first page of the site, and its list of pages is the navigation."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
MERMAID = "mermaid.min.js"
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_ROW = re.compile(r"^\| ([a-z ]+) \| (\[.*) \|$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((?:docs/)?([\w-]+\.md)\)")


def on_config(config: Any) -> Any:
    """Make the navigation from the table "Where to read on"."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Where to read on\n")[2]
    config["nav"] = [{"Home": "index.md"}]
    for readers, cell in _ROW.findall(table):
        pages = [{title[:1].upper() + title[1:]: OUTSIDE.get(page, page)} for title, page in _LINK.findall(cell)]
        config["nav"].append({readers.capitalize(): pages})
    # The theme takes it from here if it is here, and not from the internet.
    config["extra_javascript"] = [MERMAID] if (ROOT / "build" / MERMAID).exists() else []
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie beside the folder of the documents."""
    for name, page in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](../docs/").replace("](LICENSE)", "]")
        text = re.sub(r"\]\((README|CHANGELOG)\.md", r"](../\1.md", text)
        files.append(File.generated(config, page, content=text))
    if config["extra_javascript"]:
        files.append(File.generated(config, MERMAID, abs_src_path=str(ROOT / "build" / MERMAID)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that lead out of the folder of the documents lead to the pages of the site."""
    for name, page in OUTSIDE.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown.replace("](../docs/", "](")
