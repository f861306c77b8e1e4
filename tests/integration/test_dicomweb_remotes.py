"""DICOMweb remotes: another pacs-server that is sent to, searched and read, with every way to log in."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from datasets import make_ct, make_study
from pydicom.dataset import Dataset
from servers import config, eventually, open_sockets, running
from sqlalchemy import select
from webclients import store, url_of

from pacs_server.app.remotes import dicomweb_remotes
from pacs_server.app.server import PacsServer
from pacs_server.config import ForwardingConfig, RemoteAEConfig, UserIdentityConfig, WebConfig
from pacs_server.config.rights import Rights
from pacs_server.config.users import add_user
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.errors import InstanceNotFound, RemoteUnreachable
from pacs_server.index.outgoing_models import delivery
from pacs_server.index.task_values import TaskState
from pacs_server.scu.dicomweb.client import DICOMwebClient
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.dicomweb.qido import Search, find, probe
from pacs_server.scu.dicomweb.remote import DICOMwebRemote, SecretHeader
from pacs_server.scu.dicomweb.wado import retrieve
from pacs_server.scu.sending import Outgoing, outgoing
from pacs_server.services.store import StoreRequest

PASSWORD = "pässword: with a colon"


@contextmanager
def here(directory: Path) -> Iterator[PacsServer]:
    """The server that calls the other one; only its archive is used."""
    with PacsServer(config(directory)) as pacs:
        yield pacs


def instances(pacs: PacsServer, study: list[Dataset], directory: Path) -> list[Outgoing]:
    """Store these here, as instances to be sent."""
    found = []
    for ds in study:
        path = directory / "one.dcm"
        ds.save_as(path, enforce_file_format=True)
        pacs.archive.store.store_file(path, Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE))
        stored = pacs.archive.archive.find(str(ds.SOPInstanceUID))
        assert stored is not None
        found.append(outgoing(pacs.archive.retrieve, stored))
    return found


def digests(pacs: PacsServer, study: list[Dataset]) -> list[str | None]:
    """The digests of the data sets that are stored."""
    found = (pacs.archive.archive.find(str(ds.SOPInstanceUID)) for ds in study)
    return [each and each.digest for each in found]


def test_a_study_goes_there_and_comes_back_byte_for_byte(tmp_path: Path) -> None:
    study = make_study(2, 5)
    uid = str(study[0].StudyInstanceUID)
    with running(config(tmp_path / "there", web=True)) as there:
        clients = DICOMwebClients()
        remote = DICOMwebRemote("there", url_of(there, "/"))
        with here(tmp_path / "here") as pacs:
            sent = instances(pacs, study, tmp_path)
            with clients.sender(remote) as sender:
                first = sender.send(sent[0])
                assert (first.status, first.permanent) == (0, False)
                assert first.association == f"POST {url_of(there)}/studies #1"
                assert [each.status for each in sender.send_all(sent[1:])] == [0] * 9
                # Once more is success too.
                assert sender.send(sent[0]).is_success
            assert digests(there, study) == digests(pacs, study)
        with here(tmp_path / "again") as pacs, clients.use(remote) as client:

            def take(sop_class: str, sop: str, syntax: str, data: object) -> None:
                origin = Origin("", "PACS", "there", Door.WEB)
                pacs.archive.store.store(StoreRequest(sop_class, sop, syntax, origin), data)  # type: ignore[arg-type]

            series, one = str(study[0].SeriesInstanceUID), str(study[0].SOPInstanceUID)
            assert retrieve(client, take, uid, series, one).taken == [one]
            assert len(retrieve(client, take, uid, series).taken) == 5
            done = retrieve(client, take, uid)
            assert (len(done.taken), done.failed, done.broken) == (10, [], "")
            assert digests(pacs, study) == digests(there, study)
            with pytest.raises(InstanceNotFound):
                retrieve(client, take, "1.2.3")


def test_searches_at_all_levels_page_by_page(tmp_path: Path) -> None:
    studies = [make_study(2, 3, PatientID=f"P{number % 2}", StudyDate=f"2024010{number}") for number in range(1, 8)]
    with running(config(tmp_path, web=True)) as there:
        for study in studies:
            assert store(there, study).status_code == 200
        with DICOMwebClient.of(DICOMwebRemote("there", url_of(there))) as client:

            def found(level: Level, tag: str, *, page: int = 3, **keys: str) -> list[str]:
                search = Search(level, keys, ["NumberOfStudyRelatedInstances"])
                return sorted(str(match[tag]["Value"][0]) for match in find(client, search, page=page))

            everything = sorted(str(study[0].StudyInstanceUID) for study in studies)
            for page in (1, 7, 100):
                assert found(Level.STUDY, "0020000D", page=page) == everything
            assert found(Level.STUDY, "00080020", StudyDate="20240103-20240105") == [
                "20240103",
                "20240104",
                "20240105",
            ]
            assert found(Level.STUDY, "00201208", StudyDate="20240103") == ["6"]
            two = "\\".join(everything[:2])
            assert found(Level.STUDY, "0020000D", StudyInstanceUID=two) == everything[:2]
            assert found(Level.PATIENT, "00100020", PatientID="P*") == ["P0", "P1"]
            one = studies[0]
            uids = {"StudyInstanceUID": str(one[0].StudyInstanceUID)}
            assert len(found(Level.SERIES, "0020000E", **uids)) == 2
            assert len(found(Level.SERIES, "0020000E", Modality="CT")) == 14
            assert found(Level.IMAGE, "00080018", **uids) == sorted(str(ds.SOPInstanceUID) for ds in one)
            uids["SeriesInstanceUID"] = str(one[0].SeriesInstanceUID)
            assert found(Level.IMAGE, "00080018", **uids) == sorted(str(ds.SOPInstanceUID) for ds in one[:3])
            assert found(Level.IMAGE, "00080018", PatientID="nobody") == []


def test_a_remote_with_logins(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "anna", PASSWORD, Rights("contributor"))
    settings = config(tmp_path / "there", web=True).model_copy(
        update={"user_identity": UserIdentityConfig(users_path=tmp_path / "users")}
    )
    ds = make_ct()
    with running(settings) as there, here(tmp_path / "here") as pacs:
        (one,) = instances(pacs, [ds], tmp_path)
        key = there.archive.keys.create("robot", Rights("contributor"), None)
        reader = there.archive.keys.create("reader", Rights("reader"), None)
        clients = DICOMwebClients()
        for auth in (None, SecretHeader.bearer("wrong"), SecretHeader.basic("anna", "wrong")):
            remote = DICOMwebRemote("there", url_of(there), auth)
            with clients.sender(remote) as sender, pytest.raises(RemoteUnreachable, match="401"):
                sender.send(one)
        with clients.sender(DICOMwebRemote("there", url_of(there), SecretHeader.bearer(reader))) as sender:
            refused = sender.send(one)
            assert (refused.is_success, refused.permanent) == (False, True)
            assert "403" in refused.detail
        assert digests(there, [ds]) == [None]
        for auth in (
            SecretHeader.bearer(key),
            SecretHeader.basic("anna", PASSWORD),
            SecretHeader("authorization", f"Bearer {key}"),
        ):
            remote = DICOMwebRemote("there", url_of(there), auth)
            assert key not in repr(remote)
            with clients.sender(remote) as sender:
                assert sender.send(one).status == 0
            with clients.use(remote) as client:
                probe(client)


def test_a_remote_that_asks_for_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    robot = authority.issue("robot", "robot.example", common_name="robot")
    tls = {"enabled": True, "cert_path": authority.server.certificate, "key_path": authority.server.key}
    web = {"port": 0, "tls": {**tls, "client_ca_path": authority.path, "require_client_cert": True}}
    served = config(tmp_path / "there", web=True).model_copy(update={"web": WebConfig.model_validate(web)})
    with running(served) as there:
        url = url_of(there).replace("http:", "https:")

        stranger = ssl.create_default_context()
        stranger.load_cert_chain(robot.certificate, robot.key)
        nobody = ssl.create_default_context(cafile=str(authority.path))
        for tls_context, reason in (
            (stranger, "certificate is refused"),
            (None, "certificate is refused"),
            (nobody, "certificate required|broke"),
        ):
            remote = DICOMwebRemote("there", url, tls=tls_context)
            with DICOMwebClient.of(remote) as client, pytest.raises(RemoteUnreachable, match=reason):
                probe(client)
        files = {"cert_path": robot.certificate, "key_path": robot.key, "ca_path": authority.path}
        settings = {"kind": "dicomweb", "name": "there", "url": url, "auth": files}
        remotes = dicomweb_remotes(config(tmp_path, remote_aes=[RemoteAEConfig.model_validate(settings)]))
        with DICOMwebClient.of(remotes["there"]) as client:
            probe(client)


def test_studies_are_forwarded_and_wait_for_a_login_that_works(tmp_path: Path) -> None:
    study = make_study(2, 3)
    keys = RetrieveKeys(Level.STUDY, study_instance_uids=(str(study[0].StudyInstanceUID),))
    with running(config(tmp_path / "there", web=True)) as there:
        token = tmp_path / "token"
        token.write_text("a token that was revoked")
        there.archive.keys.create("somebody", Rights("reader"), None)
        remote = RemoteAEConfig.model_validate(
            {"kind": "dicomweb", "name": "there", "url": url_of(there), "auth": {"bearer_file": token}}
        )
        fast = ForwardingConfig(retry_first=0.1, breaker_first=0.1, breaker_max=0.2)
        settings = config(tmp_path / "here", remote_aes=[remote]).model_copy(update={"forwarding": fast})
        with PacsServer(settings, reload=lambda: settings) as pacs:
            instances(pacs, study, tmp_path)
            (sent,) = pacs.archive.forwarding.forward(keys, ["there"], Caller(Door.COMMAND, "", user="ann"))
            assert eventually(lambda: "401" in (pacs.archive.tasks.find(sent.task) or raises()).last_error)
            assert digests(there, study) == [None] * 6
            token.write_text(there.archive.keys.create("robot", Rights("contributor"), None) + "\n")
            assert pacs.reload()
            assert eventually(lambda: digests(there, study) == digests(pacs, study))
            assert eventually(lambda: (pacs.archive.tasks.find(sent.task) or raises()).state is TaskState.DONE)
            with pacs.archive.database.connect() as connection:
                rows = connection.execute(select(delivery.c.state, delivery.c.association, delivery.c.status)).all()
            assert {(row.state, row.status) for row in rows} == {("delivered", 0)}
            assert all(re.fullmatch(f"POST {url_of(there)}/studies #[0-9]+", row.association) for row in rows)


def raises() -> Any:
    raise AssertionError("the task is gone")


def test_connections_are_shared_kept_and_closed(tmp_path: Path) -> None:
    with running(config(tmp_path, web=True)) as there:
        clients = DICOMwebClients()
        remote = DICOMwebRemote("there", url_of(there), max_associations=1)
        before = open_sockets()
        with clients.use(remote) as client:
            with clients.use(remote) as other:
                assert other is client
            for _ in range(3):
                probe(client)
            # One for each side.
            assert open_sockets() == before + 2
        with clients.use(remote) as client:
            probe(client)
            clients.kill()
            with pytest.raises(RemoteUnreachable):
                probe(client)
        with pytest.raises(RemoteUnreachable, match="shuts down"), clients.use(remote):
            pass
