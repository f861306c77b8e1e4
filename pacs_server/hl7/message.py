"""HL7 version 2: orders (ORM^O01, OMI^O23) as worklist items, and their acknowledgments; no sockets here.

Which field gives which attribute follows IHE RAD TF-2 Appendix B and is listed in docs/workflow.md. A segment
is split only where a field is read, so that a message that consists of nothing but separators costs little.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

# HL7 table 0211; multi-byte sets are decoded before a separator is looked for.
_ENCODINGS: Final = {
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-8",
    **{f"8859/{part}": f"iso8859_{part}" for part in (*range(1, 10), 15)},
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
    **dict.fromkeys(("ISO IR14", "ISO IR87", "ISO IR159"), "iso2022_jp_2"),
}
_HEADER: Final = re.compile(r"MSH([^\w\s])((?:(?!\1)[^\w\s]){3,5})(?=\1|$)")
# HL7 2.6 wants CR alone; files and scripts often end lines as the system does.
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
# An order has a handful.
_MAX_SEGMENTS: Final = 10_000
_NULL: Final = '""'
_VERSION: Final = re.compile(r"2(\.[0-9]+)*")


class ErrorCondition(StrEnum):
    """What is wrong with a message (HL7 table 0357)."""

    SEGMENT_SEQUENCE = "100^Segment sequence error"
    REQUIRED_FIELD_MISSING = "101^Required field missing"
    DATA_TYPE = "102^Data type error"
    TABLE_VALUE = "103^Table value not found"
    UNSUPPORTED_TYPE = "200^Unsupported message type"
    UNSUPPORTED_VERSION = "203^Unsupported version id"
    UNKNOWN_KEY = "204^Unknown key identifier"
    RECORD_LOCKED = "206^Application record locked"
    INTERNAL = "207^Application internal error"


class InvalidMessage(Exception):
    """A message cannot be understood or used; says why, without quoting it."""

    def __init__(self, problem: str, condition: ErrorCondition = ErrorCondition.REQUIRED_FIELD_MISSING) -> None:
        super().__init__(problem)
        self.condition = condition


@dataclass(frozen=True, slots=True)
class Separators:
    """The encoding characters of a message (MSH-1 and MSH-2)."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    def letters(self) -> Mapping[str, str]:
        """What each escape letter stands for (HL7 2.7.1)."""
        return {
            "F": self.field,
            "S": self.component,
            "R": self.repetition,
            "E": self.escape,
            "T": self.subcomponent,
        }


def escape(text: str, separators: Separators) -> str:
    """`text` as it may stand in a field: separators and line ends as escape sequences."""
    mark = separators.escape
    table = {character: f"{mark}{letter}{mark}" for letter, character in separators.letters().items()}
    table |= {character: f"{mark}X{ord(character):02X}{mark}" for character in "\r\n\v\x1c"}
    return "".join(table.get(character, character) for character in text)


def unescape(text: str, separators: Separators, encoding: str) -> str:
    """`text` with its escape sequences replaced; those that only format are dropped (HL7 2.7)."""
    mark = re.escape(separators.escape)
    letters = separators.letters()

    def meaning(found: re.Match[str]) -> str:
        sequence = found[1]
        if sequence in letters:
            return letters[sequence]
        if re.fullmatch(r"X([0-9A-Fa-f]{2})+", sequence):
            return bytes.fromhex(sequence[1:]).decode(encoding, errors="replace")
        return "\n" if sequence in (".br", ".sp") else ""

    return re.sub(f"{mark}([^{mark}]*){mark}", meaning, text)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a message. It is split only when one of its fields is read."""

    text: str
    separators: Separators
    encoding: str

    @property
    def name(self) -> str:
        """The three letters that it begins with."""
        return self.text[:3]

    def raw(self, number: int) -> str:
        """A field as it stands in the message; empty if it is not there."""
        if self.name == "MSH":
            # HL7 2.15.9.1: the field separator itself is the first field of MSH.
            number -= 1
        parts = self.text.split(self.separators.field, number + 1)
        return parts[number] if number < len(parts) else ""

    def repetitions(self, number: int) -> list[str]:
        """The repetitions of a field, as they stand in the message."""
        raw = self.raw(number)
        return [] if raw in ("", _NULL) else raw.split(self.separators.repetition)

    def part(self, repetition: str, component: int, subcomponent: int = 1) -> str:
        """One component of a repetition, unescaped and stripped."""
        separators = self.separators
        components = repetition.split(separators.component, component)
        if component > len(components):
            return ""
        parts = components[component - 1].split(separators.subcomponent, subcomponent)
        text = parts[subcomponent - 1] if subcomponent <= len(parts) else ""
        return "" if text == _NULL else unescape(text, separators, self.encoding).strip()

    def get(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """One component of a field's first repetition; empty if it is not there."""
        repetitions = self.repetitions(number)
        return self.part(repetitions[0], component, subcomponent) if repetitions else ""


@dataclass(frozen=True, slots=True)
class HL7Message:
    """A message: its header, the segments after it, and the first one of each name."""

    header: Segment
    segments: Sequence[Segment] = ()
    firsts: Mapping[str, Segment] = field(default_factory=dict)

    @property
    def control_id(self) -> str:
        """Message Control ID (MSH-10)."""
        return self.header.get(10)

    @property
    def sender(self) -> str:
        """Sending Application (MSH-3) and Sending Facility (MSH-4), with a | between them if there are both."""
        return "|".join(filter(None, (self.header.get(3), self.header.get(4))))

    @property
    def kind(self) -> str:
        """Message code and trigger event (MSH-9), as ORM^O01."""
        return f"{self.header.get(9, 1)}^{self.header.get(9, 2)}"

    def first(self, name: str) -> Segment:
        """The first segment of that name; an empty one if there is none."""
        return self.firsts.get(name) or self.empty(name)

    def empty(self, name: str) -> Segment:
        """A segment without any fields."""
        return Segment(name, self.header.separators, self.header.encoding)


def parse_header(data: bytes) -> HL7Message:
    """Only the header of the message in `data`, undecoded: enough to answer the message. Raises InvalidMessage."""
    line = _LINE_END.split(data.decode("latin_1"), maxsplit=1)[0]
    found = _HEADER.match(line)
    if found is None:
        raise InvalidMessage("the message does not begin with MSH and separators", ErrorCondition.SEGMENT_SEQUENCE)
    marks = found[1] + found[2]
    if len(set(marks)) < len(marks):
        raise InvalidMessage("MSH-2: separators are not distinct", ErrorCondition.DATA_TYPE)
    separators = Separators(marks[0], marks[1], marks[2], marks[3], marks[4] if len(marks) > 4 else "&")
    return HL7Message(Segment(line, separators, "latin_1"))


def parse(data: bytes) -> HL7Message:
    """The message in `data`, decoded as MSH-18 says. Raises InvalidMessage."""
    header = parse_header(data).header
    text, encoding = _decoded(data, header)
    lines = [line for line in _LINE_END.split(text, maxsplit=_MAX_SEGMENTS) if line.strip()]
    if len(lines) > _MAX_SEGMENTS:
        raise InvalidMessage(f"there are more than {_MAX_SEGMENTS} segments", ErrorCondition.SEGMENT_SEQUENCE)
    first, *others = (Segment(line, header.separators, encoding) for line in lines)
    firsts: dict[str, Segment] = {}
    for segment in others:
        firsts.setdefault(segment.name, segment)
    return HL7Message(first, others, firsts)


def _decoded(data: bytes, header: Segment) -> tuple[str, str]:
    """The text of a message and its encoding."""
    # The first repetition is the set of the message, others are only switched to within it.
    name = header.get(18).upper()
    if name in ("", "ASCII"):
        # It should be ASCII; what is not is UTF-8 or, by far the most of the rest, Latin-1.
        try:
            return data.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            return data.decode("latin_1"), "latin_1"
    if name not in _ENCODINGS:
        raise InvalidMessage("MSH-18: this character set is not supported", ErrorCondition.TABLE_VALUE)
    try:
        return data.decode(_ENCODINGS[name]), _ENCODINGS[name]
    except UnicodeDecodeError:
        raise InvalidMessage("MSH-18: the text is not in this character set", ErrorCondition.DATA_TYPE) from None


def check_version(message: HL7Message) -> None:
    """Raises InvalidMessage unless the message is of HL7 version 2."""
    version = message.header.get(12)
    if version and not _VERSION.fullmatch(version):
        raise InvalidMessage("MSH-12: only version 2 is supported", ErrorCondition.UNSUPPORTED_VERSION)


# ------------------------------------------------------------------------------------ acknowledgments


def acknowledgment(message: HL7Message | None, now: datetime, problem: InvalidMessage | None = None) -> bytes:
    """The answer to a message in its own encoding: AA, or AE or AR with the reason (HL7 2.9.2).

    AR means that another attempt or another sender may succeed. AE means that the content is wrong.
    """
    header = message.header if message is not None else Segment("MSH|^~\\&", Separators(), "utf-8")
    separators, raw = header.separators, header.raw
    event = raw(9).split(separators.component)[1:2]
    fields = [
        *("MSH", "".join(_marks(separators)), raw(5), raw(6), raw(3), raw(4)),
        *(now.strftime("%Y%m%d%H%M%S"), "", separators.component.join(["ACK", *event])),
        *(now.strftime("%Y%m%d%H%M%S%f"), raw(11) or "P", raw(12) or "2.5"),
        *([""] * 5 + [raw(18)] if raw(18) else []),
    ]
    code = "AA" if problem is None else _code(problem.condition)
    reason = "" if problem is None else escape(str(problem), separators)
    lines = [fields, ["MSA", code, raw(10), *([reason] if reason else [])]]
    if problem is not None:
        number, _, text = problem.condition.partition("^")
        coded = separators.component.join((number, text, "HL70357"))
        lines.append(["ERR", "", "", coded, "E", "", "", "", reason])
    text = "".join(separators.field.join(line) + "\r" for line in lines)
    return text.encode(header.encoding, errors="replace")


def _marks(separators: Separators) -> Iterator[str]:
    yield from (separators.component, separators.repetition, separators.escape, separators.subcomponent)


def _code(condition: ErrorCondition) -> str:
    rejected = (ErrorCondition.UNSUPPORTED_TYPE, ErrorCondition.UNSUPPORTED_VERSION, ErrorCondition.INTERNAL)
    return "AR" if condition in rejected else "AE"
