"""A tiny font, and text drawn with it into pixels: so that a picture says whose it is and which one it is."""

import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# Seven rows of five pixels for each character, two hexadecimal digits a row.
_GLYPHS: Final = {
    "A": "0e11111f111111", "B": "1e11111e11111e", "C": "0e11101010110e", "D": "1e11111111111e", "E": "1f10101e10101f",
    "F": "1f10101e101010", "G": "0e11101711110f", "H": "1111111f111111", "I": "0e04040404040e", "J": "0702020202120c",
    "K": "11121418141211", "L": "1010101010101f", "M": "111b1515111111", "N": "11111915131111", "O": "0e11111111110e",
    "P": "1e11111e101010", "Q": "0e11111115120d", "R": "1e11111e141211", "S": "0f10100e01011e", "T": "1f040404040404",
    "U": "1111111111110e", "V": "11111111110a04", "W": "1111111515150a", "X": "11110a040a1111", "Y": "1111110a040404",
    "Z": "1f01020408101f", "0": "0e11131519110e", "1": "040c040404040e", "2": "0e11010204081f", "3": "1f02040201110e",
    "4": "02060a121f0202", "5": "1f101e0101110e", "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e",
    "9": "0e11110f01020c", " ": "00000000000000", ".": "00000000000c0c", ",": "000000000c0408", ":": "000c0c000c0c00",
    "/": "00010204081000", "-": "0000001f000000", "+": "0004041f040400", "(": "02040808080402", ")": "08040202020408",
    "%": "18190204081303", "=": "00001f001f0000", "'": "0c040800000000", "_": "0000000000001f", "#": "0a0a1f0a1f0a0a",
    "?": "0e110102040004", "&": "0814140815120d",
}  # fmt: skip
_WIDTH, _HEIGHT = 6, 9

# How names are written for those who read Latin letters only, one entry for each letter that is not one by itself.
_CYRILLIC: Final = (
    "А A,Б B,В V,Г G,Д D,Е E,Ж ZH,З Z,И I,К K,Л L,М M,Н N,О O,П P,Р R,С S,Т T,У U,Ф F,Х KH,Ц TS,Ч CH,Ш SH,Щ SHCH,"
    "Ъ ,Ы Y,Ь ,Э E,Ю YU,Я YA"
)
_GREEK: Final = "Α A,Β V,Γ G,Δ D,Ε E,Ζ Z,Η I,Θ TH,Ι I,Κ K,Λ L,Μ M,Ν N,Ξ X,Ο O,Π P,Ρ R,Σ S,Τ T,Υ Y,Φ F,Χ CH,Ψ PS,Ω O"
_LATIN: Final = "Ł L,Ø O,Æ AE,Œ OE,Đ D,İ I,Þ TH,^  "
_LETTERS: Final = {
    ord(letter): latin
    for letter, latin in ((pair[0], pair[2:]) for pair in f"{_CYRILLIC},{_GREEK},{_LATIN}".split(","))
}


def drawable(text: str) -> str:
    """The text in the characters of the font: capital Latin letters, digits and signs; others are left out."""
    plain = unicodedata.normalize("NFD", text.upper()).translate(_LETTERS)
    return "".join(character for character in plain if character in _GLYPHS).strip()


def draw(pixels: npt.NDArray[Any], lines: Sequence[str], colours: tuple[Any, Any], *, bottom: bool = False) -> None:
    """Draw lines of text into a picture, at the left, from the top or down to the bottom.

    `pixels` has rows, columns and perhaps samples. `colours` are those of the text and of the ground behind it. Words
    and lines that the picture has no room for are left out.
    """
    scale = max(1, min(pixels.shape[:2]) // 160)
    room = pixels.shape[1] // (_WIDTH * scale)
    texts = [_shortened(text, room) for text in map(drawable, lines) if text][: max(1, pixels.shape[0] // 28)]
    for number, text in enumerate(texts):
        block = np.kron(_bitmap(text), np.ones((scale, scale), bool))
        top = (number * _HEIGHT + 1) * scale
        if bottom:
            top = pixels.shape[0] - ((len(texts) - number) * _HEIGHT + 1) * scale
        window = pixels[max(top, 0) : max(top, 0) + block.shape[0], scale : scale + block.shape[1]]
        block = block[: window.shape[0], : window.shape[1]]
        window[...] = colours[1]
        window[block] = colours[0]


def _shortened(text: str, room: int) -> str:
    """The text without the last words, as far as it has no room."""
    while len(text) > room and " " in text:
        text = text.rpartition(" ")[0]
    return text


def _bitmap(text: str) -> npt.NDArray[np.bool_]:
    """The text as pixels, with one pixel around each character."""
    picture = np.zeros((_HEIGHT, _WIDTH * len(text) + 1), bool)
    for place, character in enumerate(text):
        rows = np.frombuffer(bytes.fromhex(_GLYPHS[character]), np.uint8)[:, np.newaxis]
        left = place * _WIDTH + 1
        picture[1:8, left : left + 5] = np.unpackbits(rows, axis=1)[:, 3:]
    return picture
