"""What a remote does in its own way is known from the association in which it is asked, or from the settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from outgoing import pool, remote
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from restapi import RestAPI
from servers import free_port
from vendor_objects import add_private

from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.levels import Level
from pacs_server.dicom.vendors import GENERIC, VENDORS, Vendor
from pacs_server.scu.find import find
from pacs_server.scu.request import value_at
from pacs_server.scu.search import Search

# Studies of a remote that matches no modalities, by UID.
STUDIES = {"1.2.1": ["CT", "SR"], "1.2.2": ["MR"], "1.2.3": ["US"]}
SEARCH = Search(
    Level.STUDY, {"StudyDate": "*", "PatientName": "*", "ModalitiesInStudy": "CT\\MR"}, ("StudyInstanceUID",)
)


class Remote:
    """A Query SCP that says to be of any vendor, and remembers what it is asked."""

    def __init__(self) -> None:
        self.ae, self.port, self.asked = AE("REMOTE"), free_port(), list[Dataset]()
        self.ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)

    def answer(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        for uid, modalities in STUDIES.items():
            match = Dataset()
            match.QueryRetrieveLevel, match.StudyInstanceUID, match.ModalitiesInStudy = "STUDY", uid, modalities
            if (0x19, 0x10) in event.identifier:
                # An archive that has the block elsewhere than it was asked for.
                add_private(match, {"SIEMENS MR HEADER": [(0x19, 0x0C, "IS", 1000)]}, 0x13)
            yield 0xFF00, match


@pytest.fixture(scope="module")
def there() -> Iterator[Remote]:
    made = Remote()
    server = made.ae.start_server(("127.0.0.1", made.port), block=False, evt_handlers=[(evt.EVT_C_FIND, made.answer)])
    yield made
    server.shutdown()


@pytest.mark.parametrize("by_setting", [False, True])
@pytest.mark.parametrize("vendor", [GENERIC, *VENDORS], ids=lambda each: each.name)
def test_a_remote_is_asked_as_its_vendor_takes_it(there: Remote, vendor: Vendor, by_setting: bool) -> None:
    class_uids, version_names = (("1.2.3",), ("",)) if by_setting else (vendor.class_uids, vendor.version_names)
    there.ae.implementation_class_uid = UID(f"{class_uids[0]}9".replace("..", ".") if class_uids else "1.2.3")
    there.ae.implementation_version_name = f"{version_names[0]}1" if version_names else None
    there.asked.clear()
    with pool() as ours:
        settings = {"vendor": vendor.name} if by_setting else {}
        found = list(find(ours, remote(there.port, "REMOTE", **settings), SEARCH))
    # What it need not match is matched here, and nothing is told twice.
    assert [text_of(each, "0020000D") for each in found] == ["1.2.1", "1.2.2"]
    asked = [each.ModalitiesInStudy for each in there.asked]
    assert asked == ([["CT", "MR"]] if vendor.quirks.takes_lists else ["CT", "MR"])
    for each in there.asked:
        assert not each.StudyDate
        assert str(each.PatientName) == ("*" if vendor.quirks.star_means_all else "")


def test_the_limit_holds_for_all_requests_together(there: Remote) -> None:
    there.asked.clear()
    with pool() as ours:
        for limit in (1, 2):
            found = list(find(ours, remote(there.port), SEARCH, limit=limit))
            assert len(found) == limit
    assert len(there.asked) == 2, "what came with the first value is enough"


def test_private_attributes_of_answers_are_found_by_creator(there: Remote, tmp_path: Path) -> None:
    name = "SIEMENS MR HEADER:0019xx0C"
    there.asked.clear()
    with pool() as ours:
        found = list(find(ours, remote(there.port), Search(Level.STUDY, {}, ("StudyInstanceUID", name))))
    assert [value_at(each, name) for each in found] == ["1000"] * len(STUDIES)
    assert there.asked[0][0x19, 0x10].value == "SIEMENS MR HEADER"
    api = RestAPI(tmp_path)
    try:
        known = RemoteAEConfig(ae_title="REMOTE", host="127.0.0.1", port=there.port, vendor="GE")
        api.config = api.config.model_copy(update={"remote_aes": (known,)})
        body = {"keys": {"PatientName": "*"}, "returns": [name], "standard": True}
        answer = api.send("POST", "/remotes/REMOTE/search", body)
        assert [[(each["keyword"], each["values"]) for each in told] for told in answer["standard"]] == [
            [("DiffusionBValue", [1000])]
        ] * len(STUDIES)
        assert not there.asked[-1].PatientName, "the vendor of the settings counts"
        assert all("00189087" not in each for each in answer["items"]), "the answers stay as they are"
        assert api.send("POST", "/remotes/REMOTE/search", {"returns": [name]})["standard"] == []
    finally:
        api.close()
