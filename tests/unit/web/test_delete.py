"""DELETE moves what a URL names to the trash, for operators."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from archives import SmallArchive
from datasets import make_study, uid
from pydicom.dataset import Dataset
from starlette.applications import Starlette
from starlette.testclient import TestClient
from trails import Kept, recorder_of
from webclients import called_by

from pacs_server.audit.events import EventID
from pacs_server.dicom import scope as scopes
from pacs_server.dicom.caller import Caller, Door, Role
from pacs_server.errors import PacsError
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.services.deletion import DeletionService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.web.dicomweb.delete import Delete
from pacs_server.web.services import WebServices
from pacs_server.web.status import on_error

OPERATOR = Caller(Door.WEB, "10.0.0.7", user="ann", role=Role.OPERATOR)


class Site:
    """An archive with two series of two instances, and a client of it."""

    def __init__(self, archive: SmallArchive) -> None:
        self.archive = archive
        self.trail = Kept()
        self.study = make_study(2, 2)
        archive.store(self.study)
        files, checkpoints = archive.files, archive.archive.checkpoints
        self.deletions = DeletionService(DeletionIndex(archive.database), files, checkpoints, recorder_of(self.trail))
        retrieve = RetrieveService(archive.archive, QueryIndex(archive.database))
        services = cast(WebServices, SimpleNamespace(retrieve=retrieve, deletions=self.deletions))
        self._app = Starlette(routes=Delete(services).routes(), exception_handlers={PacsError: on_error})

    def delete(self, *uids: str, by: Caller = OPERATOR, reason: bytes | None = None) -> int:
        path = "/dicom-web" + "".join(map("/{}/{}".format, ("studies", "series", "instances"), uids))
        headers = {} if reason is None else {"X-Delete-Reason": reason}
        return TestClient(called_by(self._app, by)).delete(path, headers=headers).status_code

    def left(self) -> list[str]:
        return [str(ds.SOPInstanceUID) for ds in self.study if self.archive.index.get(str(ds.SOPInstanceUID))]


def uids(ds: Dataset, levels: int) -> list[str]:
    return [str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)][:levels]


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    archive = SmallArchive(tmp_path, database_url)
    yield Site(archive)
    archive.close()


@pytest.mark.parametrize(("levels", "left"), [(1, 0), (2, 2), (3, 3)])
def test_it_goes_to_the_trash_with_the_reason(site: Site, levels: int, left: int) -> None:
    ds = site.study[0]
    assert site.delete(*uids(ds, levels), reason=" Wrong  patient, Müller ".encode()) == 204
    assert len(site.left()) == left
    [deletion] = site.deletions.contents()
    assert (deletion.uid, deletion.reason, deletion.deleted_by) == (
        uids(ds, levels)[-1],
        "Wrong patient, Müller",
        "ann",
    )
    [event] = site.trail.of(EventID.STUDY_DELETED, EventID.INSTANCES_ACCESSED)
    assert event.participants[0].user_id == "ann"
    assert event.participants[0].address == "10.0.0.7"
    assert site.delete(*uids(ds, levels)) == 404


@pytest.mark.parametrize("reason", [None, b"", b"  "])
def test_without_a_reason_there_is_a_default(site: Site, reason: bytes | None) -> None:
    site.delete(*uids(site.study[0], 1), reason=reason)
    assert site.deletions.contents()[0].reason == "DICOMweb delete"


@pytest.mark.parametrize("role", [Role.READER, Role.CONTRIBUTOR])
def test_only_operators_may(site: Site, role: Role) -> None:
    assert site.delete(*uids(site.study[0], 1), by=replace(OPERATOR, role=role)) == 403
    assert len(site.left()) == 4


def test_what_is_not_there_or_elsewhere(site: Site) -> None:
    study, series, sop = uids(site.study[0], 3)
    for path in ([uid()], [study, uid()], [study, series, uid()], [uid(), series], [study, uid(), sop], ["..", "*"]):
        assert site.delete(*path) == 404
    other = str(site.study[-1].SeriesInstanceUID)
    assert site.delete(study, other, sop) == 404
    assert len(site.left()) == 4


def test_limits_hide_and_keep_from_deleting_what_is_hidden(site: Site) -> None:
    foreign = replace(OPERATOR, scope=scopes.Scope(patients=(("OTHER", ""),)))
    assert site.delete(*uids(site.study[0], 1), by=foreign) == 404
    site.archive.store(make_study(1, 1, Modality="PR", StudyInstanceUID=site.study[0].StudyInstanceUID))
    limited = replace(OPERATOR, scope=scopes.Scope(modalities=("CT",)))
    assert site.delete(*uids(site.study[0], 1), by=limited) == 403
    assert site.delete(*uids(site.study[0], 2), by=limited) == 204
    assert len(site.left()) == 2


def test_a_series_of_the_same_uid_in_another_study_stays(site: Site) -> None:
    other = make_study(1, 1)
    for ds in other:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(901), site.study[0].SeriesInstanceUID
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(902)
    site.archive.store(other)
    assert site.delete(*uids(site.study[0], 2)) == 409
    assert len(site.left()) == len(site.study)
    assert site.delete(*uids(site.study[0], 3)) == 204
    assert site.archive.index.get(uid(902))
