"""One server moves to another: more kinds of objects than an association has room for, and certificates that change."""

import ssl
from pathlib import Path

import servers
import trustme
from datasets import make_ct, make_study, uid
from rawpeer import EXPLICIT, Instance, association, store
from servers import STUDY_MOVE, VERIFICATION, RawPeer, associated, config, eventually, free_port, proposal, running
from strategies import identifier

from pacs_server.app.server import PacsServer
from pacs_server.archive.stored_file import read_stored
from pacs_server.config import RemoteAEConfig, TLSConfig
from pacs_server.config.sections.routing import RoutingConfig, RoutingRule
from pacs_server.dicom.levels import Level
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import TaskState

PRIVATE = "1.2.826.0.1.3680043.8.498.9"


def test_more_kinds_than_an_association_has_contexts(tmp_path):
    study, series = uid(), uid()
    kinds = [f"{PRIVATE}.{number}" for number in range(100)]
    instances = [make_ct(study=study, series=series, SOPClassUID=kind) for kind in kinds]
    with running(config(tmp_path / "there")) as there:
        remote = RemoteAEConfig(ae_title="THERE", host="127.0.0.1", port=there.address[1])
        with PacsServer(config(tmp_path / "here", remote_aes=[remote])) as here:
            with association(here.address[1], {(kind, EXPLICIT) for kind in kinds}) as link:
                assert {store(link, Instance.of(ds)).status for ds in instances} == {0}
            with associated(here, STUDY_MOVE) as mover:
                keys = identifier("STUDY", StudyInstanceUID=study)
                *_, (final, _) = mover.send_c_move(keys, "THERE", STUDY_MOVE)
        assert (final.Status, final.NumberOfCompletedSuboperations) == (0, 100)
        assert there.status()["counts"]["instances"] == 100
        # Two contexts for each kind, 128 in an association.
        assert b"pacs_associations_total 2.0" in there.metrics.render()


def test_who_had_it_moved_here_is_kept_and_does_not_get_it_back(tmp_path):
    (instance,) = make_study(1, 1)
    with running(config(tmp_path / "here", ae_title="HERE"), reload=lambda: settings[0]) as here:
        remotes = [RemoteAEConfig(ae_title=title, host="127.0.0.1", port=free_port()) for title in ("WS1", "LAB")]
        rules = RoutingConfig(rules=(RoutingRule(name="all", forward=("WS1", "LAB")),))
        settings = [here.config.model_copy(update={"remote_aes": tuple(remotes), "routing": rules})]
        here.reload()
        remote = RemoteAEConfig(ae_title="HERE", host="127.0.0.1", port=here.address[1])
        with PacsServer(config(tmp_path / "there", ae_title="THERE", remote_aes=[remote])) as there:
            assert servers.store(there, instance) == [0]
            with associated(there, STUDY_MOVE, calling="WS1") as mover:
                keys = identifier("STUDY", StudyInstanceUID=instance.StudyInstanceUID)
                *_, (final, _) = mover.send_c_move(keys, "HERE", STUDY_MOVE)
        assert (final.Status, final.NumberOfCompletedSuboperations) == (0, 1)
        archive = here.archive
        query = archive.listing.query(Level.IMAGE, {"SOPInstanceUID": instance.SOPInstanceUID}, ())
        (row,) = archive.listing.page(query, 1).rows
        file = archive.listing.file(row.id)
        assert (file.calling_ae, file.move_originator) == ("THERE", "WS1")
        with archive.files.storage.open(file.path) as source:
            assert read_stored(source, file.path).origin.move_originator == "WS1"
        assert eventually(lambda: [each.target for each in forwards(here)] == ["LAB"])


def forwards(pacs: PacsServer):
    return pacs.archive.tasks.tasks(TaskFilter(tuple(TaskState), "forward", None), 10)


def _certificate(directory: Path, name: str) -> tuple[TLSConfig, ssl.SSLContext]:
    """A certificate of an authority of its own, written over the one that is there; and a context that trusts it."""
    authority = trustme.CA(organization_name=name)
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    issued.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return TLSConfig(enabled=True, cert_path=directory / "cert.pem", key_path=directory / "key.pem"), context


def _echo(pacs: PacsServer, context: ssl.SSLContext) -> RawPeer:
    peer = RawPeer(pacs.address)
    peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
    peer.associate(proposal((VERIFICATION, [EXPLICIT])))
    assert peer.echo() == 0
    return peer


def test_a_new_certificate_is_used_from_the_next_connection_on(tmp_path):
    settings, old = _certificate(tmp_path, "old")
    served = config(tmp_path).model_copy(update={"tls": settings})
    with running(served, reload=lambda: served) as pacs:
        with _echo(pacs, old) as first:
            _, new = _certificate(tmp_path, "new")
            assert pacs.reload()
            # What was there before goes on.
            assert first.echo() == 0
            with _echo(pacs, new) as second:
                assert second.echo() == 0
        # A pair that does not fit changes nothing.
        (tmp_path / "key.pem").write_text("no key")
        assert not pacs.reload()
        with _echo(pacs, new):
            assert eventually(lambda: pacs.status()["associations"]["active"] == 1)
