"""The keys of a query as a remote takes them, and which of its answers are what was asked for (PS3.4 C.2.2)."""

from collections.abc import Mapping
from itertools import product
from typing import Final

from pydicom.datadict import dictionary_VR

from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.matching import WILDCARD_VRS, matcher_for, matches
from pacs_server.dicom.private_elements import vr_of
from pacs_server.dicom.vendors import Quirks
from pacs_server.dicom.vr import SINGLE_VALUED_VRS
from pacs_server.errors import InvalidIdentifier
from pacs_server.scu.request import data_set_of, private_of, tag_of

# So many requests are made of one query at most.
MOST_REQUESTS: Final = 100
MODALITIES: Final = "00080061"
_STUDY_DATE: Final = 0x00080020
# Specific Character Set and Query/Retrieve Level.
_OURS: Final = (0x00080005, 0x00080052)
# What a search for studies cannot have (PS3.4 C.4.1.2.2.1), and what people mean by it.
_OF_OTHER_LEVELS: Final = {
    0x00080060: "use ModalitiesInStudy",
    0x00080016: "use SOPClassesInStudy",
    0x00080018: "use StudyInstanceUID",
    0x0020000E: "use StudyInstanceUID",
}


def requests_of(keys: Mapping[str, str], quirks: Quirks) -> list[dict[str, str]]:
    """The requests that ask for what `keys` ask for, in a way that the remote takes: mostly one.

    A lone `*` is no value of a date, time, number or UID, nor of anything for some remotes: it becomes an empty key,
    which matches the same. A list of UIDs is known to all remotes (C.2.2.2.2), one of other values to few (C.2.2.2.8):
    for others there is one request for each value, unless the remote takes lists. Raises InvalidIdentifier if those
    would be too many.
    """
    vrs = {path: _vr(path) for path in keys}
    plain = {path: "" if _is_empty(text, vrs[path], quirks) else text for path, text in keys.items()}
    lists = {path: text.split("\\") for path, text in plain.items() if _is_list(text, vrs[path])}
    if not lists or quirks.takes_lists:
        return [plain]
    count = 1
    for values in lists.values():
        count *= len(values)
    if count > MOST_REQUESTS:
        raise InvalidIdentifier(f"{count} values have to be asked for one by one, and {MOST_REQUESTS} are the most")
    return [plain | dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def refuse_key_of_study(path: str, text: str) -> None:
    """Raise InvalidIdentifier unless a search for studies can have this key: remotes ignore what they cannot match.

    Then they answer with all studies, of which each would be fetched.
    """
    data_set_of({path: text})
    if private_of(path) is not None:
        return
    tag = tag_of(path.partition(".")[0])
    if tag in _OURS:
        raise InvalidIdentifier("the server sets this itself, leave it out")
    if tag in _OF_OTHER_LEVELS:
        raise InvalidIdentifier(f"a search for studies cannot have this, {_OF_OTHER_LEVELS[tag]}")
    if (vr := _vr(path)) in ("DA", "TM", "DT") and text:
        try:
            matcher_for(vr, text)
        except InvalidIdentifier:
            example = "20260101, 20260101- or 20260101-20260131" if vr == "DA" else "0700, 0700- or 0700-1900"
            raise InvalidIdentifier(f"{text[:64]!r} is no date or time such as {example}") from None


def is_study_date(path: str) -> bool:
    """Whether a key, by keyword or tag, is the Study Date."""
    return "." not in path and private_of(path) is None and tag_of(path) == _STUDY_DATE


def _is_modalities(path: str) -> bool:
    return "." not in path and ":" not in path and f"{tag_of(path):08X}" == MODALITIES


def _is_empty(text: str, vr: str, quirks: Quirks) -> bool:
    return text == "*" and (vr not in WILDCARD_VRS or not quirks.star_means_all)


def _is_list(text: str, vr: str) -> bool:
    return "\\" in text and vr != "UI" and vr not in SINGLE_VALUED_VRS


def _vr(path: str) -> str:
    """The VR of the attribute that a path leads to; UN if it is not known. Raises InvalidIdentifier."""
    if (private := private_of(path)) is not None:
        return vr_of(*private) or "UN"
    try:
        return str(dictionary_VR(tag_of(path.rpartition(".")[2])))[:2]
    except KeyError:
        return "UN"


class Modalities:
    """Which modalities a query asks for: its Modalities in Study, upper and lower case alike."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys` are those of the query."""
        asked = next((text for path, text in keys.items() if _is_modalities(path)), "")
        try:
            self._asked = matcher_for("CS", asked.upper()) if asked else None
        except InvalidIdentifier:
            self._asked = None

    def __bool__(self) -> bool:
        """Whether it asks for any."""
        return self._asked is not None

    def are_others(self, told: str) -> bool:
        """Whether a study that has these modalities is not asked for; one that tells none may be."""
        return bool(self._asked and told and not matches(self._asked, told.upper(), multiple=True, unknown=True))


class Answers:
    """Tells which of the answers to a query are wanted; for one thread.

    Remotes need not match Modalities in Study (C.2.2.1.3): a study is dropped if its answer says that it has others. Of
    several requests of one query each answer is told once.
    """

    _NAMES: Final = ("00100020", "0020000D", "0020000E", "00080018", "00400100")

    def __init__(self, keys: Mapping[str, str], requests: int) -> None:
        """`keys` are those of the query, `requests` is how many are made of it."""
        self._modalities = Modalities(keys)
        self._remembers = requests > 1
        self._before: set[str] = set()
        self._now: set[str] = set()

    def next_request(self) -> None:
        """The answers to another request begin."""
        self._before |= self._now
        self._now = set()

    def is_wanted(self, match: DataSet) -> bool:
        """Whether an answer is what was asked for, as far as it tells, and no request before has brought it."""
        if self._modalities.are_others(text_of(match, MODALITIES)):
            return False
        if not self._remembers:
            return True
        named = repr([match.get(tag) for tag in self._NAMES])
        self._now.add(named)
        return named not in self._before
