"""Decodes the text values of data sets: character sets, several values, padding (PS3.5 6.1 and 6.2).

Senders get Specific Character Set wrong in every possible way, so nothing here raises. Bytes that cannot be decoded
become replacement characters, and characters that databases do not accept (NUL, surrogates) are dropped.
"""

import re
from functools import lru_cache

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

from pacs_server.dicom.vr import CHARACTER_SET_VRS, SINGLE_VALUED_VRS

_PLAIN_VRS = frozenset({b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"PN", b"SH", b"TM", b"UI"})
# In characters; what is longer is not remembered.
_USUAL_CHARACTER_SETS = 128
# Stands for the default repertoire, which is ASCII. Other bytes are a sender's mistake; their encoding is guessed.
_DEFAULT = ""

_ESC = b"\x1b"
_FRAGMENT = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
# PS3.5 6.1.2.5.3: after these characters the initial character set applies again; in names also after ^ and =.
_DELIMITERS = re.compile(rb"[\\\r\n\t\f]")
_NAME_DELIMITERS = re.compile(rb"[\\\r\n\t\f^=]")
# These codecs interpret escape sequences themselves. The others get the bytes without escape sequences.
_READ_ESCAPES = frozenset({"iso2022_jp", "iso2022_jp_2"})
# PS3.3 C.12.1.1.2: these allow no code extensions, so any values after them are ignored.
_STAND_ALONE = frozenset({"UTF8", "GBK", "GB18030"})
_UNWANTED = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")


def _key(name: str) -> str:
    """The name of a character set without the parts that senders spell in many ways: "ISO-IR 100" -> "IR100"."""
    return re.sub(r"[^A-Z0-9]", "", name.upper()).removeprefix("ISO")


_ENCODINGS = {
    **{_key(name): encoding for name, encoding in python_encoding.items()},
    **dict.fromkeys(("", "6", "IR6", "2022IR6", "ASCII", "USASCII"), _DEFAULT),
    **dict.fromkeys(("UTF8", "UNICODE", "UNICODEUTF8", "IR192UTF8", "2022IR192", "192"), "UTF8"),
    **dict.fromkeys(("LATIN1", "88591", "8859", "100", "WINDOWS1252", "CP1252"), "latin_1"),
    **{f"8859{part}": f"iso8859_{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"WINDOWS{page}": f"cp{page}" for page in range(1250, 1259) if page != 1252},
    **dict.fromkeys(("SHIFTJIS", "SJIS"), "shift_jis"),
    "EUCKR": "euc_kr",
    "GB2312": "GB2312",
    "BIG5": "big5",
    "KOI8R": "koi8_r",
}


@lru_cache(256)
def _encodings_of(specific_character_set: str) -> tuple[str, ...]:
    names = specific_character_set.split("\\")
    found = tuple(_ENCODINGS.get(_key(name), _DEFAULT) for name in names)
    if found[0] in _STAND_ALONE:
        return found[:1]
    return found


def encodings_of(specific_character_set: str) -> tuple[str, ...]:
    """The encodings that Specific Character Set (0008,0005) names, the initial one first.

    An unknown name counts as the default repertoire.
    """
    if len(specific_character_set) > _USUAL_CHARACTER_SETS:
        return _encodings_of.__wrapped__(specific_character_set)
    return _encodings_of(specific_character_set)


def text_values(raw: bytes, vr: str, encodings: tuple[str, ...]) -> list[str]:
    """The values in the bytes of a text element, decoded and without padding; an empty list if all are empty."""
    return values_of_text(_decode(raw, vr, encodings), vr)


def values_of_text(text: str, vr: str) -> list[str]:
    """The values in a text, without control characters, surrogates and padding; an empty list if all are empty."""
    text = _UNWANTED.sub("", text)
    if vr in SINGLE_VALUED_VRS:
        return [text.rstrip()] if text.strip() else []
    # Split only after decoding: in multi-byte character sets, 0x5C may be the second byte of a character.
    values = [value.strip() for value in text.split("\\")]
    if vr == "PN":
        # PS3.5 6.2.1: trailing null component groups may be left out.
        values = [value.rstrip("=") for value in values]
    return values if any(values) else []


def plain_value(raw: bytes, vr: bytes) -> str | None:
    """The text of an element that has one value in printable ASCII, which is the same in every character set.

    This is a fast path for nearly all texts. It returns None if `text_values` is needed: for other bytes, several
    values, or a VR with rules of its own.
    """
    if vr not in _PLAIN_VRS:
        return None
    text = raw.decode("latin_1").strip(" \0")
    plain = text.isascii() and text.isprintable() and "\\" not in text and (vr != b"PN" or "=" not in text)
    return text if plain else None


def _decode(raw: bytes, vr: str, encodings: tuple[str, ...]) -> str:
    if vr not in CHARACTER_SET_VRS:
        return _plain(raw, _DEFAULT)
    if _ESC not in raw:
        return _plain(raw, encodings[0])
    delimiters = _NAME_DELIMITERS if vr == "PN" else _DELIMITERS
    return "".join(_fragment(part, encodings[0], delimiters) for part in _FRAGMENT.findall(raw))


def _plain(raw: bytes, encoding: str) -> str:
    if encoding != _DEFAULT:
        return raw.decode(encoding, errors="replace")
    try:
        # Text in another character set is hardly ever valid UTF-8 by accident.
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin_1")


def _fragment(raw: bytes, initial: str, delimiters: re.Pattern[bytes]) -> str:
    """Decode the bytes from one escape sequence to the next.

    An escape sequence is accepted even if Specific Character Set does not name its character set.
    """
    length = 4 if raw[:3] in (b"\x1b$(", b"\x1b$)") else 3
    encoding = CODES_TO_ENCODINGS.get(raw[:length])
    if encoding is None:
        return _plain(raw, initial)
    if encoding in _READ_ESCAPES:
        return raw.decode(encoding, errors="replace")
    raw = raw[length:]
    end = delimiters.search(raw)
    at = end.start() if end else len(raw)
    return raw[:at].decode(encoding, errors="replace") + _plain(raw[at:], initial)
