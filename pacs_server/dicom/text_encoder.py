"""Encodes text in the requested character set, or in ISO_IR 192 if that set cannot represent the text (PS3.5 6.1)."""

import re
from collections.abc import Callable, Iterable
from itertools import groupby

from pydicom.charset import ENCODINGS_TO_CODES, python_encoding

Encode = Callable[[str, str], bytes]
"""A function from a text and its VR to bytes; raises UnicodeEncodeError."""

_UTF8 = "ISO_IR 192"


def encoders_for(specific_character_set: str) -> list[tuple[str, Encode]]:
    """The encoders to try in this order for a requested character set. The last one can encode any text.

    Each comes with the value to send in Specific Character Set, "" for the default repertoire.
    """
    requested, name = _encoder_for(specific_character_set)
    # Nearly all text is ASCII, which every character set contains.
    found = [(name, ascii_text)] if requested is None else [(name, ascii_text), (name, requested)]
    return [*found, (_UTF8, _utf8)]


def ascii_text(text: str, _vr: str) -> bytes:
    """Text in the default repertoire; raises UnicodeEncodeError."""
    return text.encode("ascii")


def _utf8(text: str, _vr: str) -> bytes:
    return text.encode("utf-8", errors="replace")


def _encoder_for(specific_character_set: str) -> tuple[Encode | None, str]:
    """The encoder for a requested character set and its Specific Character Set value.

    The encoder is None if the default repertoire or an unknown character set was requested.
    """
    terms = specific_character_set.split("\\")
    if any(term not in python_encoding for term in terms) or set(terms) <= {"", "ISO_IR 6", "ISO 2022 IR 6"}:
        return None, ""
    if len(terms) > 1 or "2022" in terms[0] or terms[0] == "ISO_IR 13":
        return _CodeExtensions(terms).encode, specific_character_set
    codec = python_encoding[terms[0]]
    return (lambda text, _vr: text.encode(codec)), specific_character_set


class _CodeExtensions:
    """Encodes with ISO 2022 escape sequences (PS3.5 6.1.2.5)."""

    # Sets of 94x94 characters in G0. Their codecs write the escape sequences themselves.
    _IN_G0 = frozenset({"iso2022_jp", "iso2022_jp_2"})

    def __init__(self, terms: Iterable[str]) -> None:
        self._codecs = [python_encoding[term] if term else "ascii" for term in terms]
        self._codecs = ["ascii" if codec == "iso8859" else codec for codec in self._codecs]

    def encode(self, text: str, vr: str) -> bytes:
        """Encode a text; raises UnicodeEncodeError if a character is in none of the requested character sets."""
        # PS3.5 6.1.2.5.3: after these characters the first character set applies again.
        parts = re.split(r"([\\\r\n\t\f^=])" if vr == "PN" else r"([\\\r\n\t\f])", text)
        return b"".join(self._component(part) for part in parts)

    def _component(self, text: str) -> bytes:
        out, in_g1 = b"", self._codecs[0]
        for codec, run in groupby(text, self._codec_of):
            if codec not in self._IN_G0 and codec not in ("ascii", in_g1):
                out += ENCODINGS_TO_CODES[codec]
                in_g1 = codec
            elif codec in self._IN_G0:
                # By the Standard G1 is unchanged, but many readers forget it at the escape sequence that ends the run.
                # So the next run in G1 begins with an escape sequence.
                in_g1 = ""
            out += "".join(run).encode(codec)
        return out

    def _codec_of(self, character: str) -> str:
        if character.isascii():
            return "ascii"
        for codec in self._codecs:
            try:
                raw = character.encode(codec)
            except UnicodeEncodeError:
                continue
            # ISO_IR 13 has only the single-byte characters of Shift JIS.
            single = codec != "shift_jis" or len(raw) == 1
            if single and (raw.startswith(ENCODINGS_TO_CODES[codec]) if codec in self._IN_G0 else min(raw) >= 0x80):
                return codec
        raise UnicodeEncodeError("iso2022", character, 0, 1, "not in the announced character sets")
