"""DCMTK over TLS, as the one who connects and as the one who is called; certificates demanded both ways."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dcmtk
import pytest
from certificates import NAME, Authority
from datasets import data_set_bytes, make_ct, uid, write_part10
from outgoing import outgoing, pool, remote
from servers import STUDY_MOVE, associated, config, eventually, running, store, stored_files
from strategies import identifier

from pacs_server.app.server import PacsServer
from pacs_server.config import Config, RemoteAEConfig, TLSConfig
from pacs_server.config.tls import client_context
from pacs_server.errors import RemoteUnreachable
from pacs_server.scu.dimse_sender import DIMSESender

pytestmark = pytest.mark.interop


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")


@pytest.fixture
def pacs(tmp_path: Path, authority: Authority) -> Iterator[PacsServer]:
    """A server that demands certificates."""
    with running(config(tmp_path).model_copy(update={"tls": authority.mutual()})) as server:
        yield server


def as_client(authority: Authority) -> tuple[str, ...]:
    return *authority.client.dcmtk, "+cf", str(authority.path)


def run(tool: str, pacs: PacsServer, *options: str, files: tuple[Path, ...] = ()) -> tuple[int, str]:
    """The exit code and all that was said."""
    done = dcmtk.run(tool, *options, "-aec", "PACS_SERVER", *map(str, pacs.address), *files)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"], ids=["non-downgrading", "BCP 195", "extended"])
def test_echo_in_each_profile(pacs: PacsServer, authority: Authority, profile: str) -> None:
    code, said = run("echoscu", pacs, *as_client(authority), profile)
    assert code == 0, said


@pytest.mark.parametrize("profile", ["+pa", "+pn"], ids=["AES", "NULL"])
def test_retired_profiles_alone_are_refused(pacs: PacsServer, authority: Authority, profile: str) -> None:
    # What DCMTK offers under these names: CBC with RSA key exchange, and no encryption at all.
    code, said = run("echoscu", pacs, *as_client(authority), profile)
    assert code != 0
    assert "TLS" in said


def test_large_store_and_find(pacs: PacsServer, authority: Authority, tmp_path: Path) -> None:
    instance = make_ct(rows=2048, columns=2048)
    file = write_part10(instance, tmp_path / "ct.dcm")
    code, said = run("storescu", pacs, *as_client(authority), files=(file,))
    assert code == 0, said
    [stored] = stored_files(pacs)
    assert data_set_bytes(stored) == data_set_bytes(file)
    assert file.stat().st_size > 8_000_000
    code, said = run(
        "findscu", pacs, *as_client(authority), "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID"
    )
    assert code == 0, said
    assert instance.StudyInstanceUID in said


def test_without_a_certificate_nobody_comes_in(pacs: PacsServer) -> None:
    code, _ = run("echoscu", pacs, "+tla", "-ic")
    assert code != 0


def test_a_certificate_of_another_authority_does_not_come_in(
    pacs: PacsServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    code, _ = run("echoscu", pacs, *stranger.client.dcmtk, "+cf", str(authority.path))
    assert code != 0


def test_dcmtk_refuses_a_server_of_another_authority(pacs: PacsServer, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    code, said = run("echoscu", pacs, *authority.client.dcmtk, "+cf", str(stranger.path))
    assert code != 0
    assert "certificate verify failed" in said


def test_without_a_certificate_when_none_is_demanded(tmp_path: Path, authority: Authority) -> None:
    with running(config(tmp_path).model_copy(update={"tls": authority.settings()})) as server:
        code, said = run("echoscu", server, "+tla", "+cf", str(authority.path))
        assert code == 0, said
        # As the server itself tells people to try it.
        code, said = run("echoscu", server, "+tla", "-ic")
        assert code == 0, said


# ------------------------------------------------------------------------------------ the server calls


def moved(tmp_path: Path, settings: TLSConfig, receiver: dcmtk.StoreSCP) -> tuple[int, str]:
    """Move a study to the receiver; the final status and the SOP Instance UID."""
    remote = RemoteAEConfig(ae_title="STORESCP", host=NAME, port=receiver.port, tls=True)
    instance = make_ct(uid(), rows=512, columns=512)
    with running(config(tmp_path, remote_aes=[remote]).model_copy(update={"tls": settings})) as server:
        assert store(server, instance) == [0]
        with associated(server, STUDY_MOVE) as mover:
            keys = identifier("STUDY", StudyInstanceUID=instance.StudyInstanceUID)
            *_, (final, _) = mover.send_c_move(keys, "STORESCP", STUDY_MOVE)
    return final.Status, str(instance.SOPInstanceUID)


def receiver(tmp_path: Path, authority: Authority) -> dcmtk.StoreSCP:
    """storescp that demands a certificate of the authority."""
    return dcmtk.StoreSCP(tmp_path / "received", *authority.server.dcmtk, "+cf", str(authority.path))


def test_an_association_over_tls_is_used_again(tmp_path: Path, authority: Authority) -> None:
    settings = TLSConfig(ca_path=authority.path, cert_path=authority.client.certificate, key_path=authority.client.key)
    with receiver(tmp_path, authority) as there:
        context = client_context(Config(tls=settings), check_hostname=True)
        known = replace(remote(there.port, "STORESCP"), host=NAME, tls=context)
        names = set()
        with pool() as ours:
            for _ in range(3):
                with DIMSESender(ours, known) as sender:
                    answer = sender.send(outgoing(make_ct()))
                    assert answer.is_success
                    names.add(answer.association)
        assert len(names) == 1
        stranger = replace(known, tls=client_context(Config(), check_hostname=True))
        with (
            pool() as ours,
            pytest.raises(RemoteUnreachable, match="certificate"),
            DIMSESender(ours, stranger) as sender,
        ):
            sender.send(outgoing(make_ct()))


def test_a_move_to_dcmtk_both_with_certificates(tmp_path: Path, authority: Authority) -> None:
    with receiver(tmp_path, authority) as there:
        settings = TLSConfig(
            ca_path=authority.path, cert_path=authority.client.certificate, key_path=authority.client.key
        )
        status, sop = moved(tmp_path, settings, there)
        assert status == 0
        assert eventually(lambda: [file for file in there.files() if sop in file.name])


def test_dcmtk_demands_our_certificate(tmp_path: Path, authority: Authority) -> None:
    with receiver(tmp_path, authority) as there:
        assert moved(tmp_path, TLSConfig(ca_path=authority.path), there)[0] == 0xA702
        assert there.files() == []


def test_dcmtk_with_another_authority_is_not_sent_to(tmp_path: Path, authority: Authority) -> None:
    stranger = Authority(tmp_path / "stranger")
    with receiver(tmp_path, authority) as there:
        settings = TLSConfig(
            ca_path=stranger.path, cert_path=authority.client.certificate, key_path=authority.client.key
        )
        assert moved(tmp_path, settings, there)[0] == 0xA702
        assert there.files() == []
