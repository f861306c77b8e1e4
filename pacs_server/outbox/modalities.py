"""Which modalities the studies have that a remote names without telling them.

A remote need not match Modalities in Study, and some do not return it either. Their series are asked then, so that
studies of other modalities are not fetched.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.levels import Level
from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable
from pacs_server.kit.recent import Recent
from pacs_server.scu.query_keys import MODALITIES, Modalities
from pacs_server.scu.search import Search

# What the series of a study have told holds for so long, in seconds, unless the study has grown.
_HOLDS: Final = 3600.0
_MOST: Final = 10_000

Find = Callable[[str, Search], Iterator[DataSet]]


class StudyModalities:
    """Asks remotes for the modalities of studies, and remembers them; may be shared by all threads."""

    def __init__(self, find: Find, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._find = find
        self._recent = Recent[str](_HOLDS, clock, most=_MOST)

    def asked(self, remote: str, keys: Mapping[str, str]) -> "AskedStudies":
        """The studies in the answer to a query with these keys."""
        return AskedStudies(self, remote, Modalities(keys))

    def of(self, remote: str, match: DataSet) -> str:
        """The modalities of the series of a study; '' if the remote does not tell. Raises RemoteError."""
        study = text_of(match, "0020000D")
        key = "\\".join((remote, study, text_of(match, "00201206"), text_of(match, "00201208")))
        if (known := self._recent.get(key)) is not None:
            return known
        search = Search(Level.SERIES, {"StudyInstanceUID": study}, ("SeriesInstanceUID", "Modality"))
        try:
            found = "\\".join(sorted({text_of(each, "00080060") for each in self._find(remote, search)} - {""}))
        except (RemoteBusy, RemoteUnreachable):
            raise
        except RemoteError:
            found = ""
        self._recent.put(key, found)
        return found


class AskedStudies:
    """The studies in one answer: first those that tell their modalities, then those whose series have to be asked."""

    def __init__(self, modalities: StudyModalities, remote: str, asked: Modalities) -> None:
        self._modalities = modalities
        self._remote = remote
        self._asked = asked
        self._silent: list[DataSet] = []

    def told(self, matches: Iterable[DataSet]) -> Iterator[DataSet]:
        """The studies that tell their modalities; all if none are asked for, or if too many tell none."""
        for match in matches:
            if self._asked and not text_of(match, MODALITIES) and len(self._silent) < _MOST:
                self._silent.append(match)
            else:
                yield match

    def asked_for(self) -> Iterator[DataSet]:
        """The others, as far as their series are of a modality that is asked for. Raises RemoteError."""
        for match in self._silent:
            found = self._modalities.of(self._remote, match)
            if not self._asked.are_others(found):
                values = [each for each in found.split("\\") if each]
                yield {**match, MODALITIES: {"vr": "CS", "Value": values}} if values else match
