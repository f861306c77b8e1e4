"""The reader and the writer of elements against pydicom: all VRs, all encodings, sequences, character sets."""

import copy
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName
from strategies import encoded

from pacs_server.dicom.element import Element, Item
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.encoding import EXPLICIT_LE, IMPLICIT_LE, Encoding, encoding_of, inflated
from pacs_server.dicom.json_codec import decode_data_set, encode_data_set
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.reencode import encode
from pacs_server.dicom.same_data_set import same_data_set
from pacs_server.dicom.text_encoder import encoders_for
from pacs_server.dicom.vr import BYTES_VRS, LONG_VRS, NUMBERS, SHORT_VRS, TEXT_VRS, VRS, WORD_BYTES
from pacs_server.dicom.writer import Writer, writer_for
from pacs_server.errors import TranscodeError

# The warnings are pydicom's, about values that it would not write itself.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
LIMIT = 1 << 22

# Character sets, each with letters that it holds.
LETTERS = {
    "": "aB1 .-",
    "ISO_IR 100": "aB1 .-äßÿ",
    "ISO_IR 144": "aB1 .-ЖЯю",
    "ISO_IR 192": "aB1 .-äЖ漢\u3042홍\U0001f600",
    "GB18030": "aB1 .-äЖ漢东",
    "\\ISO 2022 IR 87": "aB1 .-漢\u3042",
    "\\ISO 2022 IR 149": "aB1 .-홍길동",
}


def tags_of(vr: str) -> list[int]:
    """A few tags of the dictionary for values of a VR; UN has none, so it takes private ones."""
    # Bytes are never read as anything else there, and pixel data has rules of its own.
    known = [
        tag
        for tag, (known_vr, vm, _, retired, _) in DicomDictionary.items()
        if known_vr == vr and vm in ("1", "1-n") and not retired and 0x00080005 < tag < 0x7FE00000
    ]
    return known[:6] or ([0x00091001, 0x00091002] if vr == "UN" else [])


TAGS = {vr: tags for vr in sorted(VRS) if (tags := tags_of(vr))}


def text(vr: str, letters: str) -> st.SearchStrategy[Any]:
    plain = {
        "AE": "CT1", "AS": "055Y", "CS": "A_B 1", "DA": "20240229", "DS": "-1.50", "DT": "20240229101530.5+0100",
        "IS": "-12", "TM": "101530.25", "UI": "1.2.840.1", "UR": "http://a/b?c=d",
    }  # fmt: skip
    if vr in plain:
        return st.sampled_from([plain[vr], ""])
    value = st.text(letters, max_size=12).map(str.strip)
    if vr == "PN":
        return st.lists(value, max_size=3).map("=".join).map(lambda name: name.rstrip("="))
    return value


def value_of(vr: str, letters: str) -> st.SearchStrategy[Any]:
    """A value as pydicom takes it."""
    if vr in TEXT_VRS:
        return text(vr, letters)
    if vr in ("FL", "FD"):
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    if vr in NUMBERS:
        signed, bits = vr.startswith("S"), 8 * WORD_BYTES[vr]
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)
    if vr == "AT":
        return st.sampled_from([0x00080018, 0x7FE00010])
    # Whole words of all sizes; pydicom leaves their byte order alone, so they are the same both ways.
    return st.binary(max_size=1).map(lambda raw: raw * 16)


@st.composite
def data_sets(draw: st.DrawFn, letters: str, depth: int = 0) -> Dataset:
    """A data set of any VRs, with sequences up to three deep, each length defined or not."""
    made = Dataset()
    for vr in draw(st.lists(st.sampled_from(sorted(TAGS)), max_size=6, unique=True)):
        tag = draw(st.sampled_from(TAGS[vr]))
        if vr == "SQ":
            items = draw(st.lists(data_sets(letters, depth + 1), max_size=2)) if depth < 3 else []
            for item in items:
                item.is_undefined_length_sequence_item = draw(st.booleans())
            element = DataElement(tag, "SQ", Sequence(items))
            element.is_undefined_length = draw(st.booleans())
        else:
            element = DataElement(tag, vr, draw(value_of(vr, letters)), validation_mode=IGNORE)
        made.add(element)
    return made


@st.composite
def sent(draw: st.DrawFn) -> tuple[Dataset, str]:
    """A data set in a character set, and that set."""
    charset = draw(st.sampled_from(sorted(LETTERS)))
    made = draw(data_sets(LETTERS[charset]))
    if charset:
        made.SpecificCharacterSet = charset.split("\\")
    return made, charset


def read_by_pydicom(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        data = inflated(data, LIMIT)[0]
    return read_dataset(BytesIO(data), syntax == IMPLICIT, syntax != BIG_ENDIAN)


def raw_of(made: Dataset) -> Iterator[tuple[int, str, Any]]:
    """Tag, VR and bytes of each element as pydicom has read them; sequences with their items and forms of length."""
    for tag in sorted(made.keys()):
        element: Any = made.get_item(tag)
        # In Implicit VR the VR comes from the dictionary.
        vr = str(element.VR) if element.VR else vr_by_dictionary(int(tag))
        if vr != "SQ":
            yield int(tag), vr, element.value or b""
            continue
        element = made[tag]
        items = [(list(raw_of(item)), item.is_undefined_length_sequence_item) for item in element.value or ()]
        yield int(tag), "SQ", (items, element.is_undefined_length)


def vr_by_dictionary(tag: int) -> str:
    return dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"


def raw_of_elements(elements: tuple[Element, ...]) -> Iterator[tuple[int, str, Any]]:
    for element in elements:
        if isinstance(element.value, tuple):
            items = [(list(raw_of_elements(item.elements)), item.undefined_length) for item in element.value]
            yield element.tag, "SQ", (items, element.undefined_length)
        else:
            yield element.tag, element.vr, element.content


def test_the_table_has_every_vr_of_the_dictionary() -> None:
    known = {part for entry in DicomDictionary.values() for part in entry[0].split(" or ")} - {"NONE"}
    assert known <= VRS
    assert not TEXT_VRS & NUMBERS.keys() | TEXT_VRS & BYTES_VRS | SHORT_VRS & LONG_VRS
    assert TAGS.keys() == VRS


@given(sent(), st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN]))
def test_elements_are_those_that_pydicom_reads(given: tuple[Dataset, str], syntax: str) -> None:
    data = encoded(given[0], syntax)
    found = list(raw_of_elements(read_elements(memoryview(data), encoding_of(syntax))))
    assert found == list(raw_of(read_by_pydicom(data, syntax)))


@given(sent(), st.sampled_from(SYNTAXES), st.sampled_from(SYNTAXES))
def test_a_data_set_goes_through_the_json_model_unchanged(given: tuple[Dataset, str], syntax: str, into: str) -> None:
    made, charset = given
    found = decode_data_set(encoded(made, syntax), syntax, LIMIT)
    # Only what JSON can hold.
    assert json.loads(json.dumps(found)) == found
    new = read_by_pydicom(encode_data_set(found, into, charset), into)
    for each in (made, new):
        each.pop("SpecificCharacterSet", None)
    assert comparable(new) == comparable(made)


def comparable(made: Dataset) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for element in made:
        value = element.value
        if element.VR == "SQ":
            found[int(element.tag)] = [comparable(item) for item in value]
        else:
            # Blanks at the ends mean nothing, and no value is an empty one.
            found[int(element.tag)] = str("" if value in (None, b"") else value).strip()
    return found


@given(sent(), st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN]), st.sampled_from([IMPLICIT_LE, EXPLICIT_LE]))
def test_elements_in_another_encoding_are_what_pydicom_wrote(
    given: tuple[Dataset, str], syntax: str, target: Encoding
) -> None:
    made, _ = given
    data = encode(read_elements(memoryview(encoded(made, syntax)), encoding_of(syntax)), target)
    assert data == encoded(made, IMPLICIT if target.implicit_vr else EXPLICIT)


@given(sent(), st.sampled_from(SYNTAXES))
def test_what_was_read_is_written_byte_for_byte(given: tuple[Dataset, str], syntax: str) -> None:
    plain = EXPLICIT if syntax in (DEFLATED, BIG_ENDIAN) else syntax
    data = encoded(given[0], plain)
    elements = read_elements(memoryview(data), encoding_of(plain))
    assert encode(elements, encoding_of(plain)) == data
    assert encode(tuple(map(untouched, elements)), encoding_of(plain)) == data


def untouched(element: Element) -> Element:
    """The element as if somebody had put it together from values."""
    if isinstance(element.value, tuple):
        items = tuple(Item(tuple(map(untouched, item.elements)), item.undefined_length) for item in element.value)
        return element._replace(value=items, raw=None)
    return element._replace(raw=None)


@given(
    st.sampled_from(sorted(TAGS.keys() - {"SQ"})),
    st.binary(max_size=65),
    st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN]),
)
def test_one_element_is_written_as_it_is_read(vr: str, value: bytes, syntax: str) -> None:
    encoding = encoding_of(syntax)
    data = writer_for(syntax).element(TAGS[vr][0], vr, value)
    (element,) = read_elements(memoryview(data), encoding)
    assert (element.tag, element.vr) == (TAGS[vr][0], vr)
    assert element.content[: len(value)] == value
    assert len(element.content) == len(value) + len(value) % 2
    assert Writer(encoding).field(TAGS[vr][0], vr).element(value) == data


def test_a_value_too_long_for_its_length_field_goes_as_unknown() -> None:
    for length, vr in ((0xFFFE, "LO"), (0x10000, "UN")):
        (element,) = read_elements(
            memoryview(Writer(EXPLICIT_LE).element(0x00100020, "LO", bytes(length))), EXPLICIT_LE
        )
        assert (element.vr, len(element.content)) == (vr, length)


@given(st.sampled_from(sorted(LETTERS)), st.data())
def test_the_first_encoder_that_can_is_the_one_that_was_asked_for(charset: str, data: st.DataObject) -> None:
    letters = data.draw(st.text(LETTERS[charset].strip(), min_size=1, max_size=8))
    for name, encode_text in encoders_for(charset):
        try:
            encode_text(letters, "LO")
        except UnicodeEncodeError:
            continue
        assert name == charset
        return
    pytest.fail("nothing holds the text")


@pytest.mark.slow
@given(sent(), st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN]), st.data())
def test_damage_is_an_error_or_a_data_set(given: tuple[Dataset, str], syntax: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(given[0], syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    whole = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for known_sequences in (False, True):
        try:
            elements = read_elements(memoryview(whole), encoding_of(syntax), known_sequences=known_sequences)
        except TranscodeError:
            continue
        # No byte is in two elements, and none is made up.
        assert sum(len(element.raw or b"") for element in elements) <= len(whole)


def same(one: bytes, one_syntax: str, other: bytes, other_syntax: str) -> bool:
    def of(data: bytes, syntax: str) -> DataSetBytes:
        return DataSetBytes(lambda offset, length: data[offset : offset + length], len(data), syntax)

    return same_data_set(of(one, one_syntax), of(other, other_syntax))


@given(sent(), st.sampled_from(SYNTAXES), st.sampled_from(SYNTAXES))
def test_a_data_set_is_the_same_in_every_transfer_syntax(given: tuple[Dataset, str], one: str, other: str) -> None:
    made, _ = given
    assert same(encoded(made, one), one, encoded(made, other), other)


@given(sent(), st.sampled_from(SYNTAXES), st.sampled_from(SYNTAXES), st.data())
def test_a_data_set_with_one_other_value_is_another(
    given: tuple[Dataset, str], one: str, other: str, data: st.DataObject
) -> None:
    made, _ = given
    changed = copy.deepcopy(made)
    leaves = list(leaves_of(changed))
    if leaves:
        leaf = data.draw(st.sampled_from(leaves))
        leaf._value = another(leaf)
        assert not same(encoded(made, one), one, encoded(changed, other), other)


def leaves_of(made: Dataset) -> Iterator[DataElement]:
    for element in made:
        if element.VR == "SQ":
            for item in element.value:
                yield from leaves_of(item)
        elif element.keyword != "SpecificCharacterSet":
            yield element


def another(element: DataElement) -> Any:
    """A value that the element does not have."""
    value, vr = element.value, element.VR
    if vr in ("FL", "FD"):
        return 1.5 if value != 1.5 else 2.5
    if vr in NUMBERS:
        return 1 if value != 1 else 2
    if vr == "AT":
        return 0x00100010
    if vr in BYTES_VRS:
        return (value or b"") + b"\1" * 16
    text = f"{value or ''}1"
    return PersonName(text) if vr == "PN" else text


@given(st.binary(max_size=80), st.binary(max_size=80), st.sampled_from(SYNTAXES), st.sampled_from(SYNTAXES))
def test_any_bytes_are_compared(one: bytes, other: bytes, one_syntax: str, other_syntax: str) -> None:
    assert same(one, one_syntax, other, other_syntax) in (True, False)
