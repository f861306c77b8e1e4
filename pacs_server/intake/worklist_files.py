"""Worklist items from files: DICOM JSON, DICOM data sets (.wl), CSV; a file is read whole or not at all.

Errors name the file and the item, line or attribute, and quote no value: values are patient data.
"""

import csv
import io
import json
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import date as Date
from pathlib import Path
from typing import Any, Final

from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.sequence import Sequence as ItemSequence
from pydicom.valuerep import VR

from pacs_server.dicom.encoding import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from pacs_server.dicom.part10 import decode_head
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.worklist import WorklistItem, items_from_dataset
from pacs_server.errors import InvalidInstance, InvalidWorklistItem, TranscodeError

# Many thousands of items; a file that is larger is no worklist.
MAX_BYTES: Final = 100_000_000

# The columns of a CSV file, which are the options of `worklist add` too, and what is within the step.
ROOT_FIELDS: Final = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientWeight"),
    *("PatientSize", "PregnancyStatus", "MedicalAlerts", "Allergies", "AccessionNumber", "StudyInstanceUID"),
    *("ReferringPhysicianName", "RequestingPhysician", "RequestingService", "RequestedProcedureID"),
    *("RequestedProcedureDescription", "RequestedProcedureCodeSequence", "RequestedProcedurePriority"),
    *("PatientTransportArrangements", "AdmissionID", "CurrentPatientLocation", "PatientState"),
)
STEP_FIELDS: Final = (
    *("Modality", "ScheduledStationAETitle", "ScheduledStationName", "ScheduledProcedureStepStartDate"),
    *("ScheduledProcedureStepStartTime", "ScheduledPerformingPhysicianName", "ScheduledProcedureStepID"),
    *("ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence", "ScheduledProcedureStepLocation"),
    *("PreMedication", "RequestedContrastAgent"),
)
FIELDS: Final = ROOT_FIELDS + STEP_FIELDS

_VRS: Final = frozenset(VR)
_ENCODINGS: Final = {
    "1.2.840.10008.1.2": IMPLICIT_LE,
    "1.2.840.10008.1.2.1": EXPLICIT_LE,
    "1.2.840.10008.1.2.2": EXPLICIT_BE,
}
_UNREADABLE: Final = (
    *(ValueError, TypeError, AttributeError, LookupError, OverflowError, NotImplementedError, EOFError),
    *(OSError, struct.error, BytesLengthException, InvalidDicomError, InvalidInstance, TranscodeError, RecursionError),
)


def read_items(path: Path) -> list[WorklistItem]:
    """The items of a `.json`, `.wl` or `.csv` file; raises InvalidWorklistItem, OSError."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidWorklistItem(f"{path}: the name does not end in {', '.join(READERS)}")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    return items_of(data, path.suffix, str(path))


def items_of(data: bytes, suffix: str, name: str) -> list[WorklistItem]:
    """The items in the content of a file; `name` begins every error. Raises InvalidWorklistItem."""
    if len(data) > MAX_BYTES:
        raise InvalidWorklistItem(f"{name}: is larger than {MAX_BYTES} bytes")
    seen: dict[tuple[str, str, str], str] = {}
    items = []
    for where, ds in READERS[suffix.lower()](data, name):
        try:
            found = items_from_dataset(ds, suffix.lower().lstrip("."))
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


def _json(data: bytes, name: str) -> Iterator[tuple[str, Dataset]]:
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


def _from_json(document: Mapping[str, Any], where: str) -> Dataset:
    ds = Dataset()
    for tag, element in document.items():
        # One by one, so that an error can name the attribute.
        if re.fullmatch(r"[0-9A-Fa-f]{8}", tag) is None:
            raise InvalidWorklistItem(f"{where}: a name is no tag of eight hexadecimal digits")
        try:
            # pydicom warns of much that is wrong, takes it, and quotes it.
            if not _is_well_formed(element):
                raise ValueError("not as PS3.18 F.2 wants it")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ds.update(Dataset.from_json({tag: element}, _no_bulk_data))
        except _UNREADABLE:
            raise InvalidWorklistItem(f"{where}: {_shown(tag)} is not as PS3.18 F.2 wants it") from None
    return ds


def _is_well_formed(element: object) -> bool:
    if not isinstance(element, dict) or element.get("vr") not in _VRS:
        return False
    values = element.get("Value", [])
    if not isinstance(values, list):
        return False
    if element["vr"] == "SQ":
        return all(isinstance(one, dict) and all(map(_is_well_formed, one.values())) for one in values)
    if element["vr"] == "PN":
        groups = [group for one in values if isinstance(one, dict) for group in one.values()]
        return all(one is None or isinstance(one, dict) for one in values) and all(isinstance(g, str) for g in groups)
    return all(one is None or (isinstance(one, str | int | float) and not isinstance(one, bool)) for one in values)


def _no_bulk_data(tag: str, vr: str, uri: str) -> object:
    raise ValueError("bulk data")


def _shown(tag: str) -> str:
    return f"{keyword_for_tag(int(tag, 16))} ({tag[:4]},{tag[4:]})".lstrip()


# ------------------------------------------------------------------------------------ DICOM data sets


def _wl(data: bytes, name: str) -> Iterator[tuple[str, Dataset]]:
    """A file with or without File Meta Information, as DCMTK's wlmscpfs takes them."""
    try:
        head = decode_head(data[:4096])
        if head is None:
            raise InvalidWorklistItem(f"{name}: is no DICOM data set")
        # pydicom makes do with what there is of a file that was cut off; this does not.
        encoding = _ENCODINGS.get(head.transfer_syntax_uid)
        if encoding is not None:
            read_elements(memoryview(data)[head.data_set_offset :], encoding)
        # pydicom's warnings quote values, and values are patient data.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(io.BytesIO(data), force=True)
            # Read what pydicom puts off, so that it fails here.
            for _ in ds.iterall():
                pass
    except _UNREADABLE:
        raise InvalidWorklistItem(f"{name}: is no DICOM data set, or a damaged one") from None
    yield name, ds


# ------------------------------------------------------------------------------------ CSV


def _csv(data: bytes, name: str) -> Iterator[tuple[str, Dataset]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidWorklistItem(f"{name}: is not UTF-8 text (byte {error.start})") from None
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
            yield where, dataset_of(dict(zip(columns, row, strict=True)), where)
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


# ------------------------------------------------------------------------------------ fields as text


def dataset_of(values: Mapping[str, str], where: str) -> Dataset:
    """An item from the texts of `FIELDS`; empty ones are left out. Raises InvalidWorklistItem.

    Dates may be YYYY-MM-DD, times HH:MM or HH:MM:SS, codes are value^scheme^meaning.
    """
    root, step = Dataset(), Dataset()
    for keyword, text in values.items():
        if not text.strip():
            continue
        try:
            element = element_of(keyword, text)
        except _UNREADABLE:
            raise InvalidWorklistItem(f"{where}: {keyword} has a value that it may not have") from None
        (step if keyword in STEP_FIELDS else root).add(element)
    root.ScheduledProcedureStepSequence = [step]
    return root


def element_of(keyword: str, text: str) -> DataElement:
    """An attribute from text as people write it; raises ValueError."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no attribute")
    vr, text = dictionary_VR(tag), text.strip()
    if not text.isprintable():
        raise ValueError("control characters")
    value: object = _AS_DICOM.get(vr, str)(text)
    return DataElement(tag, vr, value, validation_mode=pydicom_config.RAISE)


def _date(text: str) -> str:
    found = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)", text, re.ASCII)
    if found is None:
        raise ValueError("not a date")
    year, month, day = found.groups()
    return Date(int(year), int(month), int(day)).strftime("%Y%m%d")


def _time(text: str) -> str:
    found = re.fullmatch(r"([01]\d|2[0-3]):?([0-5]\d)(?::?([0-5]\d))?", text, re.ASCII)
    if found is None:
        raise ValueError("not a time")
    return "".join(filter(None, found.groups()))


def _code(text: str) -> ItemSequence:
    value, scheme, meaning = (part.strip() for part in text.split("^"))
    if not (value and scheme and meaning):
        raise ValueError("not a code")
    code = Dataset()
    code.add(element_of("CodeValue" if len(value) <= 16 else "LongCodeValue", value))
    code.add(element_of("CodingSchemeDesignator", scheme))
    code.add(element_of("CodeMeaning", meaning))
    return ItemSequence([code])


_AS_DICOM: Final[Mapping[str, Callable[[str], object]]] = {"DA": _date, "TM": _time, "SQ": _code, "US": int}
READERS: Final[Mapping[str, Callable[[bytes, str], Iterator[tuple[str, Dataset]]]]] = {
    ".json": _json,
    ".wl": _wl,
    ".csv": _csv,
}
