"""People who never were, with names in the scripts of the character sets of DICOM (PS3.3 C.12.1.1.2)."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.charset import convert_encodings, python_encoding
from pydicom.valuerep import PersonName


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose a study is; what is empty is made from the seed."""

    name: str
    patient_id: str = ""
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """What is written in a character set: names with the sex of each, and a hospital."""

    hospital: str
    names: tuple[tuple[str, str], ...]


def _script(hospital: str, *names: str) -> Script:
    return Script(hospital, tuple((name[2:], name[0]) for name in names))


_JAPANESE: Final = _script(
    "東京病院", "M Yamada^Tarou=山田^太郎=やまだ^たろう", "F Satou^Hanako=佐藤^花子=さとう^はなこ"
)
_KOREAN: Final = _script("서울병원", "M Hong^Gildong=洪^吉洞=홍^길동", "F Kim^Jiyoung=金^智英=김^지영")
_CHINESE: Final = _script("北京医院", "M Wang^XiaoDong=王^小东", "F Li^Na=李^娜", "M Zhang^Wei=张^伟")
SCRIPTS: Final[Mapping[str, Script]] = {
    "ISO_IR 192": _script(
        "Hôpital 病院 Больница", "F Müller^Zoë", "M Wang^XiaoDong=王^小東", "F Петрова^Анна",
        "M Yamada^Tarou=山田^太郎=やまだ^たろう", "F Παπαδοπούλου^Ελένη", "M Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "ISO_IR 6": _script("General Hospital", "F Doe^Jane", "M Roe^Richard", "F Miller^Ada^M", "M Smith^John^^Dr"),
    "ISO_IR 100": _script("Klinikum Süd", "M Müller^Jürgen", "F Núñez^Begoña", "M Buc^Jérôme", "F Sørensen^Åse"),
    "ISO_IR 101": _script("Nemocnice Brno-střed", "M Dvořák^Zdeněk", "F Wójcik^Łucja", "M Kovács^Győző"),
    "ISO_IR 126": _script("Γενικό Νοσοκομείο", "F Παπαδοπούλου^Ελένη", "M Νικολάου^Γιώργος"),
    "ISO_IR 127": _script("مستشفى المدينة", "M قباني^نزار", "F حداد^ليلى"),
    "ISO_IR 138": _script("בית חולים כללי", "F שרון^דבורה", "M כהן^יוסף"),
    "ISO_IR 144": _script("Городская больница", "F Петрова^Анна", "M Иванов^Пётр"),
    "ISO_IR 148": _script("Şehir Hastanesi", "F Çelik^Gülşen", "M Yıldız^İbrahim"),
    "ISO_IR 166": _script("โรงพยาบาลกลาง", "M ใจดี^สมชาย", "F ใจดี^สมหญิง"),
    "ISO 2022 IR 87": _JAPANESE,
    "ISO 2022 IR 149": _KOREAN,
    "GB18030": _CHINESE,
    "GBK": _CHINESE,
}  # fmt: skip
"""The character sets that have names of their own, by defined term. With others, names are Latin."""


def character_sets(charset: str) -> list[str]:
    """The values of Specific Character Set for a defined term, or for several with backslashes between them.

    Raises ValueError if it is not known.
    """
    if charset == "ISO_IR 6":
        return []  # PS3.3 C.12.1.1.2: the default repertoire has no defined term of its own without code extensions
    if charset in ("ISO 2022 IR 87", "ISO 2022 IR 149"):
        return ["", charset]  # PS3.5 H.3.1, I.2: what is written in Latin letters stays that
    terms = charset.split("\\")
    if not set(terms) <= python_encoding.keys():
        raise ValueError(f"{charset!r} is not a character set of DICOM")
    return terms


def patient_of(number: int, seed: int | str, charset: str, given: Patient | str | None) -> Patient:
    """A patient with all values, chosen by `number`; raises ValueError if the name cannot be written in `charset`."""
    names = SCRIPTS.get(charset, SCRIPTS["ISO_IR 6"]).names
    name, sex = names[number % len(names)]
    made = Patient(name, f"SYN-{seed}"[:64], f"{1930 + number % 70}{1 + number % 12:02}{1 + number % 28:02}", sex)
    if given is None:
        given = made
    elif isinstance(given, str):
        given = Patient(given)
    _check(given.name, charset)
    return Patient(
        given.name, given.patient_id or made.patient_id, given.birth_date or made.birth_date, given.sex or made.sex
    )


def _check(name: str, charset: str) -> None:
    encodings = convert_encodings(character_sets(charset) or [""])
    try:
        with warnings.catch_warnings(action="error"):
            same = str(PersonName(PersonName(name).encode(encodings), encodings)) == name
    except (UnicodeError, UserWarning):
        same = False
    if not same:
        raise ValueError(f"{name!r} cannot be written in {charset}")
