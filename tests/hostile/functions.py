"""Every function that takes bytes from outside, with valid bytes to begin from: only its own errors may come out."""

import contextlib
import json
import random
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import orders
import yaml
from hostile import payloads
from hostile.mutation import mutated
from hostile.peers import REQUEST, command
from servers import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT

from pacs_server.config.load import load
from pacs_server.dicom import mpps
from pacs_server.dicom.bulk_data import find_bulk_data
from pacs_server.dicom.bulk_input import instance_pieces
from pacs_server.dicom.commitment import parse_request
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.encoding import EXPLICIT_LE, deflated, encoding_of
from pacs_server.dicom.header import read_header
from pacs_server.dicom.identifier import QueryOptions, parse_find, parse_retrieve
from pacs_server.dicom.json_codec import decode_data_set, encode_data_set
from pacs_server.dicom.json_input import checked_data_set
from pacs_server.dicom.levels import InformationModel
from pacs_server.dicom.metadata import BASE, Metadata
from pacs_server.dicom.native_xml_input import read_native_xml
from pacs_server.dicom.part10 import decode_head, encode_head
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.reencode import encode
from pacs_server.dicom.same_data_set import same_data_set
from pacs_server.dicom.worklist_query import parse_worklist
from pacs_server.errors import (
    AttributeRefused,
    BulkDataNotFound,
    ConfigError,
    InvalidArgumentValue,
    InvalidIdentifier,
    InvalidInstance,
    InvalidWorklistItem,
    ProcedureStepClosed,
    ResourceLimitation,
    TranscodeError,
)
from pacs_server.hl7.message import InvalidMessage, acknowledgment, parse_header
from pacs_server.hl7.message import parse as parse_hl7
from pacs_server.hl7.mllp import BadFrame, FrameReader
from pacs_server.hl7.order_map import order_of
from pacs_server.intake.worklist_files import items_of
from pacs_server.kit.multipart import MalformedMultipart, parts
from pacs_server.net.associate import decode_accept, decode_request, encode_accept
from pacs_server.net.message import decode_command, encode_command
from pacs_server.net.negotiation import negotiate
from pacs_server.net.pdu import ProtocolError
from pacs_server.scp.contexts import supports

SEEDS = Path(__file__).parent / "seeds"
# More than this for some KiB is an attack that works; generous for a busy machine.
SECONDS = 5.0
_MAX_BYTES = 4 << 20
_SYNTAXES = {"implicit": IMPLICIT, "explicit": EXPLICIT, "big endian": BIG_ENDIAN, "deflated": DEFLATED}
_OPTIONS = (QueryOptions(), QueryOptions(relational=True, combined_date_time=True, fuzzy=True))


@dataclass(frozen=True)
class Function:
    """A function of bytes, what it may raise, and what it takes."""

    name: str
    call: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    valid: Callable[[], Sequence[bytes]]

    def holds(self, data: bytes) -> None:
        """Call it with `data`: nothing comes out but what it may raise, and that soon."""
        began = time.perf_counter()
        with contextlib.suppress(*self.errors):
            self.call(data)
        assert time.perf_counter() - began < SECONDS, f"{self.name} took too long"

    def fuzz(self, number: int) -> None:
        """Hold it against mutation `number` of what it takes; keeps the bytes that it fell over."""
        rng = random.Random(f"{self.name} {number}")
        valid = self.valid()
        data = mutated(rng.choice(valid), rng, valid)
        try:
            self.holds(data)
        except Exception:
            (SEEDS / f"{self.name.replace(' ', '_')}.{number}.bin").write_bytes(data)
            raise


def _request(data: bytes) -> None:
    proposed = decode_request(data)
    answer, _ = negotiate(proposed, supports(accept_unknown=True))
    encode_accept(proposed, answer)


def _command(data: bytes) -> None:
    encode_command(decode_command(data))


def _find(syntax: str, data: bytes) -> None:
    for model in InformationModel:
        for options in _OPTIONS:
            for parser in (parse_find, parse_retrieve):
                with contextlib.suppress(InvalidIdentifier):
                    parser(data, syntax, model, options)


def _mpps(syntax: str, data: bytes) -> None:
    attributes = decode_data_set(data, syntax, _MAX_BYTES)
    created = mpps.created(attributes)
    encode_data_set(created, syntax, "ISO_IR 192")
    mpps.scheduled_steps(created)
    mpps.performed_instances(created)
    mpps.updated(created, attributes)


def _header(syntax: str, data: bytes) -> None:
    for complete in (True, False):
        try:
            header = read_header(data, syntax, complete=complete, size=len(data))
        except InvalidInstance:
            continue
        for text in header.values.values():
            assert "\0" not in text
            text.encode()


def _reencode(syntax: str, data: bytes) -> None:
    encode(read_elements(memoryview(data), encoding_of(syntax)), EXPLICIT_LE)


def _same(syntax: str, data: bytes) -> None:
    data_set = DataSetBytes(lambda offset, length: data[offset : offset + length], len(data), syntax)
    for valid in objects(syntax)[:2]:
        of_valid = DataSetBytes(lambda offset, length, held=valid: held[offset : offset + length], len(valid), syntax)
        same_data_set(data_set, of_valid)
    same_data_set(data_set, data_set)


def _read_metadata(syntax: str, data: bytes) -> None:
    """The metadata are complete JSON, whatever the data set is, and each Bulkdata URI in them leads to a value."""
    data_set = DataSetBytes(lambda offset, length: data[offset : offset + length], len(data), syntax)
    text = "".join(Metadata(data_set).pieces())
    json.loads(text.replace(BASE, ""))
    for path in re.findall('"BulkDataURI":"\0/bulkdata/([0-9A-F/]+)"', text)[:4]:
        found = find_bulk_data(data_set, path)
        if found.length is not None:
            for _ in found.chunks(0, found.length):
                pass


def _hl7(data: bytes) -> None:
    message = parse_header(data)
    acknowledgment(message, datetime.now(UTC))
    order_of(parse_hl7(data))


def _mllp(data: bytes) -> None:
    reader = FrameReader(10_000)
    for start in range(0, len(data), 7):
        reader.feed(data[start : start + 7])


def _multipart(data: bytes) -> None:
    found = [
        [(dict(part.headers), part.fault, b"".join(part)) for part in parts([data[:at], data[at:]], "b")]
        for at in (0, len(data) // 2)
    ]
    assert found[0] == found[1]


def _metadata(read: Callable[[bytes], Any], data: bytes) -> None:
    found = checked_data_set(read(data), bulk=True)
    with contextlib.suppress(InvalidInstance):
        list(instance_pieces(found, EXPLICIT, {}))


def _worklist_files(suffix: str, data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items_of(data, suffix, "a file")


def _config(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pacs_server.yaml"
        file.write_bytes(data)
        load(file, environ={}, overrides={})


# ------------------------------------------------------------------------------------ what they take


@cache
def objects(syntax: str) -> tuple[bytes, ...]:
    """Starts of data sets in a transfer syntax, from the files of pydicom."""
    explicit, found = [], []
    for path in datasets.pydicom_test_files():
        of, data = datasets.data_set_bytes(path)
        if of == syntax and len(data) < 500_000:
            found.append(data if syntax == DEFLATED else data[:20_000])
        if of == EXPLICIT and len(data) < 50_000:
            explicit.append(data)
    if syntax == DEFLATED:
        found += map(deflated, explicit[:5])
    return tuple(found)


@cache
def identifiers(syntax: str) -> tuple[bytes, ...]:
    """Identifiers of all levels, and of the worklist."""
    implicit = syntax == IMPLICIT
    step = payloads.data_set({0x00400001: ("AE", "CT*"), 0x00400002: ("DA", "20250101-")}, implicit=implicit)
    item = payloads.element(0xFFFEE000, "", step)
    plain = [
        payloads.data_set(values, implicit=implicit)
        for values in (
            {0x00080052: ("CS", "STUDY"), 0x00080020: ("DA", "20200101-20210101"), 0x00100010: ("PN", "D*^J?=*")},
            {0x00080052: ("CS", "STUDY"), 0x0020000D: ("UI", "1.2.3\\1.2.4"), 0x00080030: ("TM", "10-1130")},
            {0x00080052: ("CS", "PATIENT"), 0x00100020: ("LO", "P1"), 0x00080005: ("CS", "\\ISO 2022 IR 87")},
            {0x00080052: ("CS", "IMAGE"), 0x0020000D: ("UI", "1.2"), 0x0020000E: ("UI", "1.3"), 0x00200013: ("IS", "")},
        )
    ]
    plain.append(plain[0] + payloads.element(0x00400100, "SQ", item, implicit=implicit))
    return tuple(map(deflated, plain)) if syntax == DEFLATED else tuple(plain)


def _explicit(*plain: bytes, syntax: str) -> tuple[bytes, ...]:
    return tuple(map(deflated, plain)) if syntax == DEFLATED else plain


@cache
def _yaml() -> tuple[bytes, ...]:
    sections = {
        "server": {"port": 104, "ae_title": "PACS", "network_timeout": 3.5},
        "storage": {"min_free_space": "1GB", "directory": "./a"},
        "access_control": {"allowed_ae_titles": ["CT*"]},
        "remote_aes": [{"ae_title": "WS", "host": "10.0.0.1", "port": 104, "tls": True}],
    }
    example = Path(__file__).parents[2] / "pacs_server.yaml.example"
    return (
        yaml.safe_dump(sections).encode(),
        yaml.safe_dump(sections, default_flow_style=True).encode(),
        (example.read_bytes()),
    )


_CSV = b"PatientName;PatientID;AccessionNumber;Modality\r\nDoe^Jo;P3;A3;CT\r\n"
_JSON = b'{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jo"}]}, "00080060": {"vr": "CS", "Value": ["CT"]}}'


_XML = (
    b'<?xml version="1.0"?><NativeDicomModel><DicomAttribute tag="00100010" vr="PN"><PersonName number="1"><Alphabetic>'
    b"<FamilyName>Doe</FamilyName></Alphabetic></PersonName></DicomAttribute><DicomAttribute tag='00280010' vr='US'>"
    b"<Value number='1'>512</Value></DicomAttribute><DicomAttribute tag='00081140' vr='SQ'><Item number='1'>"
    b"<DicomAttribute tag='00091001' vr='OB' privateCreator='X'><InlineBinary>AAEC</InlineBinary></DicomAttribute>"
    b"</Item></DicomAttribute></NativeDicomModel>"
)
_MULTIPART = (
    b"preamble\r\n--b \r\nContent-Type: a/b;\r\n x=y\r\n\r\n\r\n--bb\r\n--b\r\n\r\n1\r\n--b--\r\nepilogue",
    b"--b\nA: x\n\n1\n--b--",
)
_NO_METADATA = (ValueError, TypeError, AttributeError, RecursionError)


def _commands() -> tuple[bytes, ...]:
    return tuple(encode_command(command(name)) for name in ("echo", "store", "find", "move", "mpps", "commitment"))


def _messages() -> tuple[bytes, ...]:
    return orders.wire(orders.ORDER), orders.wire(orders.OMI, "utf-8")


def _for_each_syntax(
    name: str,
    call: Callable[[str, bytes], object],
    errors: tuple[type[Exception], ...],
    valid: Callable[[str], Sequence[bytes]],
) -> list[Function]:
    return [
        Function(f"{name} {label}", partial(call, syntax), errors, partial(valid, syntax))
        for label, syntax in _SYNTAXES.items()
    ]


_REFUSED = (AttributeRefused, TranscodeError, ProcedureStepClosed)
FUNCTIONS = (
    Function("association request", _request, (ProtocolError,), lambda: (REQUEST[6:],)),
    Function("association answer", decode_accept, (ProtocolError,), lambda: (REQUEST[6:],)),
    Function("command", _command, (ProtocolError,), _commands),
    *_for_each_syntax("header", _header, (), objects),
    *_for_each_syntax("data set", _reencode, (TranscodeError,), objects),
    *_for_each_syntax("same data set", _same, (), objects),
    *_for_each_syntax("kept metadata", _read_metadata, (TranscodeError, BulkDataNotFound), objects),
    *_for_each_syntax("identifier", _find, (), identifiers),
    *_for_each_syntax(
        "worklist query", lambda syntax, data: parse_worklist(data, syntax), (InvalidIdentifier,), identifiers
    ),
    *_for_each_syntax("procedure step", _mpps, _REFUSED, lambda syntax: _explicit(payloads.step(), syntax=syntax)),
    *_for_each_syntax(
        "commitment",
        lambda syntax, data: parse_request(data, syntax),
        (InvalidArgumentValue, ResourceLimitation),
        lambda syntax: _explicit(payloads.references(["1.2.3", "1.2.4"]), syntax=syntax),
    ),
    Function("file head", decode_head, (InvalidInstance,), lambda: (encode_head("1.2", "1.3", EXPLICIT, "CT1"),)),
    Function("hl7", _hl7, (InvalidMessage, InvalidWorklistItem), _messages),
    Function("mllp", _mllp, (BadFrame,), lambda: tuple(b"\x0b" + m + b"\x1c\r" for m in _messages())),
    Function("multipart", _multipart, (MalformedMultipart,), lambda: _MULTIPART),
    Function("metadata json", partial(_metadata, json.loads), _NO_METADATA, lambda: (_JSON,)),
    Function("metadata xml", partial(_metadata, read_native_xml), _NO_METADATA, lambda: (_XML,)),
    Function("worklist csv", partial(_worklist_files, ".csv"), (InvalidWorklistItem,), lambda: (_CSV,)),
    Function("worklist json", partial(_worklist_files, ".json"), (InvalidWorklistItem,), lambda: (_JSON,)),
    Function("configuration", _config, (ConfigError,), _yaml),
)
BY_NAME = {function.name: function for function in FUNCTIONS}
