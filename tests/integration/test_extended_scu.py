"""What is asked of a remote by extended negotiation when it is searched; the remote is another pacs-server."""

from pathlib import Path

import pytest
from datasets import make_ct
from outgoing import pool, remote
from servers import config, running, store

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.levels import Level
from pacs_server.errors import RemoteError
from pacs_server.scu.find import find
from pacs_server.scu.search import Search

SERIES, ID = ("SeriesInstanceUID",), ("PatientID",)


def test_relational_combined_and_fuzzy_searches(tmp_path: Path) -> None:
    early = make_ct(PatientID="P1", PatientName="Doe^Jane", StudyDate="20260101", StudyTime="230000")
    late = make_ct(PatientID="P2", PatientName="Smith^Joe", StudyDate="20260102", StudyTime="010000")
    with running(config(tmp_path)) as pacs, pool() as ours:
        there = remote(pacs.address[1], "PACS_SERVER")
        assert store(pacs, early, late) == [0, 0]
        of_patient = Search(Level.SERIES, {"PatientID": "P1"}, SERIES, relational=True)
        assert [text_of(each, "0020000E") for each in find(ours, there, of_patient)] == [early.SeriesInstanceUID]
        # From one evening to the next morning; without combined matching the range of times is none.
        night = {"StudyDate": "20260101-20260102", "StudyTime": "220000-020000"}
        asked = Search(Level.STUDY, night, ID, combined=True)
        assert {text_of(each, "00100020") for each in find(ours, there, asked)} == {"P1", "P2"}
        with pytest.raises(RemoteError, match="the range goes backwards"):
            list(find(ours, there, Search(Level.STUDY, night, ID)))
        alike = Search(Level.STUDY, {"PatientName": "jane"}, ID, fuzzy=True)
        assert [text_of(each, "00100020") for each in find(ours, there, alike)] == ["P1"]
        assert list(find(ours, there, Search(Level.STUDY, {"PatientName": "jane"}, ID))) == []
