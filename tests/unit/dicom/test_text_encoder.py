"""Text in the character set that was asked for, as pydicom reads it."""

import pytest
from pydicom.charset import convert_encodings, decode_bytes

from pacs_server.dicom.text_encoder import encoders_for

GREEK, KANJI, JAPANESE = "ISO 2022 IR 126", "ISO 2022 IR 87", "ISO 2022 IR 13"
GREEK_IN_G1 = b"\x1b-F"


def encoded(text: str, character_set: str) -> bytes:
    """The text by the encoder that was asked for: the ones before and after it are ASCII and UTF-8."""
    [_, (name, encode), _] = encoders_for(character_set)
    assert name == character_set
    return encode(text, "LO")


@pytest.mark.parametrize("text", ["λ", "λ山", "山λ", "λ山β", "λ山β山γ", "a山b", "λ\\山\\β"])
def test_character_sets_are_switched_between_characters(text: str) -> None:
    character_set = f"{GREEK}\\{KANJI}"
    raw = encoded(text, character_set)
    assert decode_bytes(raw, convert_encodings(character_set.split("\\")), {ord("\\")}) == text


def test_many_readers_forget_the_set_in_g1_at_a_switch_of_g0_so_it_is_named_again() -> None:
    raw = encoded("λ山β", f"{GREEK}\\{KANJI}")
    assert raw.rpartition(b"\x1b(B")[2].startswith(GREEK_IN_G1)


def test_a_character_outside_the_character_sets_is_an_error() -> None:
    for text, character_set in (("é", f"{GREEK}\\{KANJI}"), ("水", JAPANESE)):
        with pytest.raises(UnicodeEncodeError):
            encoded(text, character_set)
