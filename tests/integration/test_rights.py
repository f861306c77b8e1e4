"""Users with roles and limits at the DICOM port: what they see, what they may store, and what they cannot learn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import servers
from datasets import make_ct
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from servers import STUDY_FIND, STUDY_GET

from pacs_server.app.server import PacsServer
from pacs_server.config import DatabaseConfig, UserIdentityConfig
from pacs_server.config.rights import Rights
from pacs_server.config.users import add_user

PASSWORD = "correct horse"
PUSH_MODEL = "1.2.840.10008.1.20.1"
NOT_AUTHORISED = 0x0124
USERS = {
    "all": Rights(),
    "ct": Rights(modalities=("CT",)),
    "one": Rights(patients=(("P1", ""),)),
    "scanner": Rights(ae_titles=("SCAN",)),
    "reader": Rights("reader"),
}


@pytest.fixture
def pacs(tmp_path: Path, database_url: str) -> Iterator[PacsServer]:
    """A server to which everybody has to log in; one study has a CT and an MR series, another is of another patient."""
    for name, rights in USERS.items():
        add_user(tmp_path / "users", name, PASSWORD, rights)
    settings = servers.config(tmp_path).model_copy(
        update={
            "user_identity": UserIdentityConfig(mode="required", users_path=tmp_path / "users"),
            "database": DatabaseConfig(url=database_url),
        }
    )
    with servers.running(settings) as pacs:
        assert store(pacs, "all", *STORED) == [0] * len(STORED)
        yield pacs


def ct(study: str, series: str, sop: str, **attributes: str) -> Dataset:
    return make_ct(f"1.2.{study}", f"1.3.{series}", f"1.4.{sop}", **attributes)


STORED = [ct("1", "1", "1"), ct("1", "2", "2", Modality="MR"), ct("3", "3", "3", Modality="MR", PatientID="P2")]


@contextmanager
def logged_in(pacs: PacsServer, user: str, *contexts: str, calling: str = "SCAN") -> Iterator[Association]:
    item = UserIdentityNegotiation()
    item.user_identity_type, item.positive_response_requested = 2, False
    item.primary_field, item.secondary_field = user.encode(), PASSWORD.encode()
    roles = [build_role(CTImageStorage, scp_role=True)] if STUDY_GET in contexts else []
    kinds = [(each, [ExplicitVRLittleEndian]) for each in contexts]
    with servers.associated(pacs, *kinds, calling=calling, ext_neg=[item, *roles], held=False) as association:
        yield association


def store(pacs: PacsServer, user: str, *instances: Dataset, calling: str = "SCAN") -> list[int]:
    with logged_in(pacs, user, CTImageStorage, calling=calling) as association:
        return [association.send_c_store(each).Status for each in instances]


def studies(pacs: PacsServer, user: str) -> dict[str, tuple[str, int]]:
    """The studies that a user finds, with modalities and numbers of instances."""
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", ""
    keys.ModalitiesInStudy, keys.NumberOfStudyRelatedInstances = "", ""
    with logged_in(pacs, user, STUDY_FIND) as association:
        found = [answer for _, answer in association.send_c_find(keys, STUDY_FIND) if answer is not None]
    return {each.StudyInstanceUID: (str(each.ModalitiesInStudy), each.NumberOfStudyRelatedInstances) for each in found}


def tried_to_get(pacs: PacsServer, user: str, study: str) -> int:
    """How many instances the server sends; pynetdicom takes none without a handler."""
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study
    with logged_in(pacs, user, STUDY_GET, CTImageStorage) as association:
        *_, (last, _) = association.send_c_get(keys, STUDY_GET)
    return int(last.NumberOfCompletedSuboperations + last.NumberOfFailedSuboperations)


@pytest.mark.slow
def test_a_user_with_limits_finds_and_gets_what_is_his(pacs: PacsServer) -> None:
    assert studies(pacs, "all") == {"1.2.1": ("['CT', 'MR']", 2), "1.2.3": ("MR", 1)}
    assert studies(pacs, "reader") == studies(pacs, "all")
    assert studies(pacs, "ct") == {"1.2.1": ("CT", 1)}
    assert studies(pacs, "one") == {"1.2.1": ("['CT', 'MR']", 2)}
    assert [tried_to_get(pacs, "ct", study) for study in ("1.2.1", "1.2.3", "1.2.99")] == [1, 0, 0]
    assert [tried_to_get(pacs, "one", study) for study in ("1.2.1", "1.2.3")] == [2, 0]


@pytest.mark.slow
def test_what_a_user_may_not_store_is_refused_in_one_way(pacs: PacsServer) -> None:
    before = studies(pacs, "all")
    refused = [
        # Outside of the user's own limits.
        ct("1", "1", "91", Modality="MR"),
        # A patient who is not named could be anybody of that ID.
        ct("9", "9", "92", PatientName=""),
        # Into a study that is not seen, into such a series, and under UIDs that are taken.
        ct("3", "9", "93", PatientID="P2"),
        ct("1", "2", "94"),
        ct("9", "9", "2"),
        ct("9", "9", "3", PatientID="P7"),
    ]
    assert store(pacs, "ct", *refused) == [NOT_AUTHORISED] * len(refused)
    assert store(pacs, "one", ct("1", "1", "95", PatientID="P2")) == [NOT_AUTHORISED]
    assert store(pacs, "scanner", ct("9", "9", "96"), calling="OTHER") == [NOT_AUTHORISED]
    assert store(pacs, "reader", ct("1", "1", "97")) == [NOT_AUTHORISED]
    assert studies(pacs, "all") == before
    # What is his own is stored as ever, and again.
    new = ct("5", "5", "5")
    assert store(pacs, "ct", ct("1", "1", "6"), new, new, STORED[0]) == [0, 0, 0, 0]
    assert studies(pacs, "ct") == {"1.2.1": ("CT", 2), "1.2.5": ("CT", 1)}
    assert studies(pacs, "scanner") == studies(pacs, "all")


@pytest.mark.slow
def test_refusals_do_not_tell_what_is_stored(pacs: PacsServer) -> None:
    with logged_in(pacs, "ct", CTImageStorage) as association:
        answers = [
            association.send_c_store(each)
            for each in (ct("9", "9", "2"), ct("9", "9", "77", Modality="MR"), ct("3", "3", "3", PatientID="P2"))
        ]
    told = [(answer.Status, answer.get("ErrorComment")) for answer in answers]
    assert told == [(NOT_AUTHORISED, "this instance is not within the limits of this user")] * 3


def test_what_goes_to_a_patient_who_is_not_seen_is_refused(pacs: PacsServer) -> None:
    patients = pacs.archive.patients
    assert store(pacs, "one", ct("7", "7", "70")) == [0]
    patients.merge(patients.person("P1"), patients.person("P2"), "the same person")
    assert store(pacs, "one", ct("8", "8", "80")) == [NOT_AUTHORISED]
    assert store(pacs, "all", ct("8", "8", "80")) == [0]


def test_services_that_answer_about_any_uid_are_not_for_users_with_limits(pacs: PacsServer) -> None:
    request = Dataset()
    request.TransactionUID = "1.9.1"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.4.3"
    request.ReferencedSOPSequence = [item]
    for user, status in (("ct", NOT_AUTHORISED), ("all", 0)):
        with logged_in(pacs, user, PUSH_MODEL) as association:
            answer, _ = association.send_n_action(request, 1, PUSH_MODEL, f"{PUSH_MODEL}.1")
            assert answer.Status == status
