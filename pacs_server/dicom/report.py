"""A structured report as a page for people: its content tree, as nested lists (PS3.3 C.17)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.metadata import BASE, Metadata
from pacs_server.errors import TranscodeError

_CONTENT, _CONCEPT_NAME, _CONCEPT_CODE, _VALUE_TYPE = "0040A730", "0040A043", "0040A168", "0040A040"
_CODE_MEANING, _CODE_VALUE = "00080104", "00080100"
_MEASURED, _NUMERIC_VALUE, _UNIT = "0040A300", "0040A30A", "004008EA"
_REFERENCED, _SOP_CLASS, _SOP_INSTANCE, _FRAMES = "00081199", "00081150", "00081155", "00081160"
_GRAPHIC_TYPE, _GRAPHIC_DATA = "00700023", "00700022"
# The attribute that holds the value of a content item, by its value type.
_TEXTS: Final = {
    "TEXT": "0040A160", "DATETIME": "0040A120", "DATE": "0040A121", "TIME": "0040A122", "UIDREF": "0040A124",
    "PNAME": "0040A123",
}  # fmt: skip
_HEAD: Final = (
    ("Patient", "00100010"), ("Patient ID", "00100020"), ("Birth date", "00100030"), ("Sex", "00100040"),
    ("Study date", "00080020"), ("Accession number", "00080050"), ("Study", "00081030"), ("Institution", "00080080"),
    ("Completion", "0040A491"), ("Verification", "0040A493"),
)  # fmt: skip
_MAX_DEPTH: Final = 60
_STYLE: Final = (
    "body{font:16px/1.4 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2em 1em}dt,b{color:#444;font-weight:600}"
    "dd{margin:0}ul{padding-left:1.2em}"
)

Attributes = Mapping[str, Any]


def html_of(data_set: DataSetBytes) -> str:
    """The report in a data set as HTML; everything of it is text there. Raises TranscodeError if it is malformed."""
    metadata = Metadata(data_set)
    text = "".join(metadata.pieces()).replace(BASE, "")
    if metadata.broken:
        raise TranscodeError(metadata.broken)
    report: Attributes = json.loads(text, strict=False)
    title = escape(_meaning(report, _CONCEPT_NAME) or _text(report, "0008103E") or "Report")
    head = "".join(f"<dt>{label}</dt><dd>{escape(value)}</dd>" for label, tag in _HEAD if (value := _text(report, tag)))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>"
        f"<body><h1>{title}</h1><dl>{head}</dl>{''.join(_list(report, 0))}</body></html>"
    )


def _list(item: Attributes, depth: int) -> Iterator[str]:
    """What a content item contains."""
    contained = _items(item, _CONTENT)
    if contained and depth < _MAX_DEPTH:
        yield "<ul>"
        for each in contained:
            name, value = escape(_meaning(each, _CONCEPT_NAME)), escape(_value(each))
            label = f"<b>{name}</b>" if name else ""
            yield f"<li>{': '.join(part for part in (label, value) if part)}"
            yield from _list(each, depth + 1)
            yield "</li>"
        yield "</ul>"


def _value(item: Attributes) -> str:
    """The value of a content item as text (PS3.3 Table C.17.3-1)."""
    kind = _text(item, _VALUE_TYPE)
    if kind in _TEXTS:
        return _text(item, _TEXTS[kind])
    if kind == "CODE":
        return _meaning(item, _CONCEPT_CODE)
    if kind == "NUM":
        return ", ".join(_measured(each) for each in _items(item, _MEASURED))
    if kind in ("SCOORD", "SCOORD3D", "TCOORD"):
        numbers = " ".join(f"{number:g}" for number in _values(item, _GRAPHIC_DATA)[:20])
        return f"{_text(item, _GRAPHIC_TYPE)} {numbers}".strip()
    return ", ".join(_reference(each) for each in _items(item, _REFERENCED))


def _measured(item: Attributes) -> str:
    unit = _items(item, _UNIT)
    code = (_text(unit[0], _CODE_VALUE) or _text(unit[0], _CODE_MEANING)) if unit else ""
    # UCUM writes "no units" as 1.
    return f"{_text(item, _NUMERIC_VALUE)} {'' if code == '1' else code}".strip()


def _reference(item: Attributes) -> str:
    frames = ", ".join(str(number) for number in _values(item, _FRAMES))
    return f"instance {_text(item, _SOP_INSTANCE)}" + (f", frames {frames}" if frames else "")


def _meaning(item: Attributes, sequence: str) -> str:
    codes = _items(item, sequence)
    return (_text(codes[0], _CODE_MEANING) or _text(codes[0], _CODE_VALUE)) if codes else ""


def _items(item: Attributes, tag: str) -> Sequence[Attributes]:
    return [each for each in _values(item, tag) if isinstance(each, dict)]


def _values(item: Attributes, tag: str) -> list[Any]:
    return [value for value in item.get(tag, {}).get("Value", []) if value is not None]


def _text(item: Attributes, tag: str) -> str:
    return "\n".join(_shown(value) for value in _values(item, tag))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        name = value.get("Alphabetic") or value.get("Ideographic") or value.get("Phonetic") or ""
        return " ".join(part for part in name.replace("^", " ").split() if part)
    return str(value)
