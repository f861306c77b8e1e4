"""Reads worklist items from files: DICOM JSON, DICOM data sets (.wl) and CSV. A file is taken whole or not at all.

Errors name the file and the item, line or attribute. They never quote a value, because values are patient data.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydicom.datadict import keyword_for_tag

from pacs_server.dicom.json_codec import decode_data_set
from pacs_server.dicom.json_input import checked_element, is_tag
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.part10 import decode_head
from pacs_server.dicom.worklist import WorklistItem, items_of_order
from pacs_server.errors import InvalidInstance, InvalidWorklistItem, TranscodeError
from pacs_server.intake.worklist_fields import FIELDS, order_of_fields

# Many thousands of items; a file that is larger is no worklist.
MAX_BYTES: Final = 100_000_000
UTF_8: Final = "utf-8"
# Which of its character sets Excel took cannot be told from the bytes, and a wrong guess would change names.
_EXCEL: Final = ": in Excel, save it as 'CSV UTF-8'; or use `worklist import --encoding windows-1252`"


def read_items(path: Path, encoding: str = UTF_8) -> list[WorklistItem]:
    """The items of a `.json`, `.wl` or `.csv` file; `encoding` is that of CSV. Raises InvalidWorklistItem, OSError."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidWorklistItem(f"{path}: the name does not end in {', '.join(READERS)}")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    return items_of(data, path.suffix, str(path), encoding)


def items_of(data: bytes, suffix: str, name: str, encoding: str = UTF_8) -> list[WorklistItem]:
    """The items in the content of a file; `name` begins every error. Raises InvalidWorklistItem."""
    if len(data) > MAX_BYTES:
        raise InvalidWorklistItem(f"{name}: is larger than {MAX_BYTES} bytes")
    seen: dict[tuple[str, str, str], str] = {}
    items = []
    for where, order in READERS[suffix.lower()](data, name, encoding):
        try:
            found = items_of_order(order, suffix.lower().lstrip("."))
        except InvalidWorklistItem as error:
            raise InvalidWorklistItem(f"{where}: {error}") from None
        for item in found:
            first = seen.setdefault(item.identity, where)
            if first != where:
                raise InvalidWorklistItem(f"{where}: has the identifiers of {first.removeprefix(f'{name}: ')}")
        items += found
    if not items:
        raise InvalidWorklistItem(f"{name}: holds no items")
    return items


# ------------------------------------------------------------------------------------ DICOM JSON


def _json(data: bytes, name: str, _encoding: str) -> Iterator[tuple[str, DataSet]]:
    try:
        document = json.loads(data)
    except UnicodeDecodeError as error:
        raise InvalidWorklistItem(f"{name}: is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InvalidWorklistItem(f"{name}: line {error.lineno}: is not JSON: {error.msg}") from None
    except RecursionError:
        raise InvalidWorklistItem(f"{name}: the nesting is too deep") from None
    if isinstance(document, dict):
        yield name, _from_json(document, name)
        return
    if not isinstance(document, list):
        raise InvalidWorklistItem(f"{name}: is no DICOM JSON object or array of them")
    for number, one in enumerate(document, 1):
        where = f"{name}: item {number}"
        if not isinstance(one, dict):
            raise InvalidWorklistItem(f"{where}: is no DICOM JSON object")
        yield where, _from_json(one, where)


def _from_json(document: Mapping[str, Any], where: str) -> DataSet:
    order: dict[str, Any] = {}
    for tag, element in document.items():
        # One by one, so that an error can name the attribute.
        if not is_tag(tag):
            raise InvalidWorklistItem(f"{where}: a name is no tag of eight hexadecimal digits")
        try:
            order[tag.upper()] = checked_element(element)
        except ValueError:
            shown = f"{keyword_for_tag(int(tag, 16))} ({tag[:4]},{tag[4:]})".lstrip()
            raise InvalidWorklistItem(f"{where}: {shown} is not as PS3.18 F.2 wants it") from None
    return order


# ------------------------------------------------------------------------------------ DICOM data sets


def _wl(data: bytes, name: str, _encoding: str) -> Iterator[tuple[str, DataSet]]:
    """A file with or without File Meta Information, as DCMTK's wlmscpfs takes them."""
    try:
        head = decode_head(data[:4096])
        if head is None:
            raise InvalidWorklistItem(f"{name}: is no DICOM data set")
        yield name, decode_data_set(data[head.data_set_offset :], head.transfer_syntax_uid, MAX_BYTES)
    except (InvalidInstance, TranscodeError):
        raise InvalidWorklistItem(f"{name}: is no DICOM data set, or a damaged one") from None


# ------------------------------------------------------------------------------------ CSV


def _csv(data: bytes, name: str, encoding: str) -> Iterator[tuple[str, DataSet]]:
    try:
        # Excel begins UTF-8 with a byte order mark.
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        hint = _EXCEL if encoding.lower() == UTF_8 else ""
        raise InvalidWorklistItem(f"{name}: is not {encoding.upper()} text (byte {error.start}){hint}") from None
    head = text.partition("\n")[0]
    # Spreadsheets write what the country's settings say.
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = _columns(next(rows, []), name)
        for row in rows:
            where = f"{name}: line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(columns):
                raise InvalidWorklistItem(f"{where}: has {len(row)} fields, the header has {len(columns)}")
            yield where, order_of_fields(dict(zip(columns, row, strict=True)), where)
    except csv.Error as error:
        raise InvalidWorklistItem(f"{name}: line {rows.line_num}: is not CSV: {error}") from None


def _columns(header: list[str], name: str) -> list[str]:
    columns = [column.strip() for column in header]
    for number, column in enumerate(columns, 1):
        if column not in FIELDS:
            # Not quoted: in a file without a header it is a value.
            raise InvalidWorklistItem(f"{name}: line 1: column {number} is not one of {', '.join(FIELDS)}")
        if columns.count(column) > 1:
            raise InvalidWorklistItem(f"{name}: line 1: {column} is given twice")
    if not columns:
        raise InvalidWorklistItem(f"{name}: line 1: there is no header")
    return columns


READERS: Final[Mapping[str, Callable[[bytes, str, str], Iterator[tuple[str, DataSet]]]]] = {
    ".json": _json,
    ".wl": _wl,
    ".csv": _csv,
}
