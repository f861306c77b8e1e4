"""What a remote has of a study, instance by instance."""

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.levels import Level
from pacs_server.scu.remotes import Remotes
from pacs_server.scu.search import Search


def inventory(
    remotes: Remotes, name: str, study: str, series: str = "", instance: str = ""
) -> dict[str, tuple[str, str]]:
    """Series and SOP class of each instance that a remote has of a study, by SOP Instance UID.

    With `series`, and an `instance` of it, only of these. Raises RemoteError and its kinds.
    """
    found: dict[str, tuple[str, str]] = {}
    for each in [series] if series else _series(remotes, name, study):
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": each}
        keys |= {"SOPInstanceUID": instance} if instance else {}
        search = Search(Level.IMAGE, keys, ("SOPInstanceUID", "SOPClassUID"))
        named = {text_of(match, "00080018"): (each, text_of(match, "00080016")) for match in remotes.find(name, search)}
        found |= {uid: about for uid, about in named.items() if uid}
    return found


def _series(remotes: Remotes, name: str, study: str) -> list[str]:
    matches = remotes.find(name, Search(Level.SERIES, {"StudyInstanceUID": study}, ("SeriesInstanceUID",)))
    return sorted({text_of(match, "0020000E") for match in matches} - {""})
