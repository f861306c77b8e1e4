"""A page for people that shows what the OpenAPI document says; it needs no script."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

STYLE: Final = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1d2733; }
h2 { border-bottom: 1px solid #c6d0da; margin-top: 2.5rem; text-transform: capitalize; }
details { margin: .6rem 0; }
details[open] { margin-bottom: 2rem; }
summary { cursor: pointer; }
summary code { background: #eef2f6; border-radius: 4px; font-weight: bold; padding: .15rem .4rem; }
p { margin: .25rem 0; }
table { border-collapse: collapse; margin: .5rem 0; width: 100%; }
td, th { border-bottom: 1px solid #e3e9ef; padding: .2rem .75rem .2rem 0; text-align: left; vertical-align: top; }
td:first-child { white-space: nowrap; }
@media (prefers-color-scheme: dark) {
  body { background: #14191f; color: #d9e1e8; }
  summary code { background: #26303a; }
  h2, td, th { border-color: #35414d; }
  a { color: #7db7ff; }
}
"""

Document = Mapping[str, Any]


def reference(document: Document, address: str) -> str:
    """The page as HTML; `address` is that of the REST API."""
    return "".join(_page(document, address))


def _page(document: Document, address: str) -> Iterator[str]:
    title = "REST API of pacs-server"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f'<link rel="stylesheet" href="{escape(address)}/reference.css">'
    yield f"</head><body><h1>{title}</h1><p>{_text(document['info']['description'])}</p>"
    yield f'<p>For programs: <a href="{escape(address)}/openapi.json">openapi.json</a>, OpenAPI 3.1.</p>'
    for tag in document["tags"]:
        yield f'<h2 id="{escape(tag["name"])}">{escape(tag["name"])}</h2>'
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(document, method, path, operation)
    yield "</body></html>"


def _operation(document: Document, method: str, path: str, operation: Document) -> Iterator[str]:
    yield f'<details id="{escape(operation["operationId"])}"><summary><code>{method.upper()} {escape(path)}</code> '
    yield f"{_text(operation['summary'])}</summary><p>{_text(operation['description'])}</p>"
    parameters = [(each["name"], each.get("description", "")) for each in operation["parameters"]]
    yield from _table("Parameter", parameters)
    if "requestBody" in operation:
        yield from _table("Body", _members(document, operation["requestBody"]["content"]))
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            yield from _table(f"Answer {status}", _members(document, response.get("content", {})))
    others = [(status, each["description"]) for status, each in operation["responses"].items() if status[0] != "2"]
    yield from _table("Error", others)
    yield "</details>"


def _members(document: Document, content: Document) -> list[tuple[str, str]]:
    """The members of a JSON object, or of the rows of a page, with their descriptions."""
    described: Document = next(iter(content.values()), {})
    schema = described.get("schema", {})
    model = _resolved(document, schema)
    found = []
    for name, each in model.get("properties", {}).items():
        found.append((name, each.get("description", "")))
        if name == "items":
            row = _resolved(document, each.get("items", {}))
            found += [
                (f"items[].{key}", value.get("description", "")) for key, value in row.get("properties", {}).items()
            ]
    return found


def _resolved(document: Document, schema: Document) -> Document:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Document = document["components"]["schemas"].get(name, schema)
    return found


def _table(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    if rows:
        yield f"<table><tr><th>{escape(title)}</th><th></th></tr>"
        yield from (f"<tr><td><code>{escape(name)}</code></td><td>{_text(told)}</td></tr>" for name, told in rows)
        yield "</table>"


def _text(text: str) -> str:
    """Text with `code` in it."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))
