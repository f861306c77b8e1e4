"""**The** table of value representations: what readers and writers of elements need to know of each (PS3.5 6.2)."""

from collections.abc import Mapping
from functools import lru_cache

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from pacs_server.dicom.tags import is_private_creator

TEXT_VRS = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
NUMBERS: Mapping[str, str] = {
    "FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q",
}  # fmt: skip
"""The VRs of binary numbers, each with its format for `struct`."""
BYTES_VRS = frozenset("OB OD OF OL OV OW UN".split())
"""The VRs whose values are kept as bytes."""
VRS = TEXT_VRS | NUMBERS.keys() | BYTES_VRS | {"AT", "SQ"}

# PS3.5 7.1.2: in Explicit VR these have a 16-bit length field. All others, including future VRs, have 32 bits.
SHORT_VRS = VRS - frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
LONG_VRS = VRS - SHORT_VRS
# PS3.5 6.1.2.3: only these depend on Specific Character Set. The others always use the default repertoire.
CHARACTER_SET_VRS = frozenset("LO LT PN SH ST UC UT".split())
# PS3.5 6.2: in these a backslash is part of the text, not a delimiter, and leading blanks are significant.
SINGLE_VALUED_VRS = frozenset("LT ST UR UT".split())
# PS3.5 7.3: the number of bytes in a word, which big endian reverses. AT is two 16-bit numbers.
WORD_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_PADDED_WITH_NUL = BYTES_VRS | {"UI"}


def padding(vr: str) -> bytes:
    """The byte that makes the length of a value even: NUL for UIDs and bytes, a blank for other text (PS3.5 6.2)."""
    return b"\0" if vr in _PADDED_WITH_NUL else b" "


def looks_like_vr(raw: bytes) -> bool:
    """Whether two bytes may be a VR, of this table or of a later edition of the Standard."""
    return raw.isalpha() and raw.isupper()


# A few hundred tags occur in nearly all data sets. The limit keeps tags that peers invent from filling memory.
@lru_cache(maxsize=2048)
def dictionary_vr(tag: int) -> str:
    """The VR of a standard attribute, "" when the dictionary does not know it, US for "US or SS"."""
    try:
        return str(dictionary_VR(tag))[:2]
    except KeyError:
        return ""


def implicit_vr(tag: int, creators: Mapping[int, str]) -> str:
    """The VR of an attribute in Implicit VR; UN if the attribute is unknown (PS3.5 6.2.2, 7.8).

    "US or SS" is returned as it is. `creators` maps the element numbers of the data set's private creators to their
    names.
    """
    group, number = tag >> 16, tag & 0xFFFF
    if group == 0xFFFE:
        return ""
    if number == 0:
        return "UL"
    if is_private_creator(tag):
        return "LO"
    try:
        vr = str(private_dictionary_VR(tag, creators[number >> 8])) if group & 1 else _standard_vr(tag)
    except KeyError:
        return "UN"
    return "OW" if vr.endswith("OW") else vr  # PS3.5 A.1: "OB or OW" is OW in Implicit VR


_standard_vr = lru_cache(maxsize=2048)(dictionary_VR)
