"""Exchanges of every service that end at any byte, and peers that go away while the server sends to them."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
import servers
from datasets import make_study
from hostile.payloads import ct, data_set, keys, references, step
from hostile.peers import CONTEXT, MPPS, SERVICES, command
from pydicom.dataset import Dataset
from servers import CT, RawPeer, collecting, eventually, message, open_sockets, proposal, server_threads

from pacs_server.app.server import PacsServer
from pacs_server.net.associate import encode_request
from pacs_server.net.message import Command, CommandField
from pacs_server.net.pdu import RELEASE_RQ, encode_abort

STEP, SOP = "1.2.826.0.1.3680043.8.498.7.1", "1.2.826.0.1.3680043.8.498.7.2"
# CT with both roles, so that C-GET gets somewhere.
PROPOSAL = proposal(*((name, [syntax]) for name, syntax in SERVICES.values()), roles={CT: (True, True)})


def close(_peer: RawPeer) -> None:
    """Nothing more; the end of the stream comes with the end of the peer."""


def abort(peer: RawPeer) -> None:
    with contextlib.suppress(OSError):
        peer.send(encode_abort())


def reset(peer: RawPeer) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ENDINGS = (close, abort, reset)


def request(service: str, study: str) -> bytes:
    """A request on the wire, in short PDUs."""
    of_study = keys("STUDY", {0x0020000D: ("UI", study)})
    change = Command(CommandField.N_SET, message_id=1, requested_sop_class_uid=MPPS, requested_sop_instance_uid=STEP)
    of, asked, data = {
        "echo": ("echo", command("echo"), None),
        "store": ("store", command("store", affected_sop_instance_uid=SOP), ct(SOP)),
        "find": ("find", command("find"), of_study),
        "move": ("move", command("move", move_destination="DEST"), of_study),
        "get": ("get", command("get"), of_study),
        "worklist": ("worklist", command("worklist"), data_set({0x00100010: ("PN", "")})),
        "create": ("mpps", command("mpps", affected_sop_instance_uid=STEP), step()),
        "set": ("mpps", change, data_set({0x00400254: ("LO", "Thorax")})),
        "commitment": ("commitment", command("commitment"), references([SOP])),
    }[service]
    return message(CONTEXT[of], asked, data, max_pdu=100)


SERVICE_NAMES = ("echo", "store", "find", "move", "get", "worklist", "create", "set", "commitment")


@pytest.fixture
def instances() -> list[Dataset]:
    return make_study(1, 2, Rows=1, Columns=1, PixelData=bytes(2))


@contextlib.contextmanager
def associated(pacs: PacsServer) -> Iterator[RawPeer]:
    with RawPeer(pacs.address) as peer:
        peer.associate(PROPOSAL)
        yield peer


def done(pacs: PacsServer, whole: bytes) -> int | None:
    """Ask in good order; the final status."""
    with associated(pacs) as peer:
        peer.send(whole)
        while True:
            reply = peer.read_message()
            if reply.command.command_field == CommandField.C_STORE:
                answer = Command(0x8001, message_id_being_responded_to=reply.command.message_id, status=0)
                peer.send(message(reply.context_id, answer))
            elif reply.command.status != 0xFF00:
                return reply.command.status


def held(pacs: PacsServer) -> tuple[object, ...]:
    """What the archive has, and whether it is in order."""
    requested = len(pacs.archive.commitment.summaries(everything=True, limit=10))
    return pacs.status()["counts"], len(servers.stored_files(pacs)), servers.leftovers(pacs.config), requested


def is_at_rest(pacs: PacsServer, peers: int) -> bool:
    """Whether so many peers are served, and nothing more."""
    return eventually(
        lambda: (
            pacs.status()["associations"]["connections"] == peers
            and sum(name != "listener" for name in server_threads()) == peers
        )
    )


@pytest.mark.parametrize("service", SERVICE_NAMES)
def test_a_request_that_ends_at_any_byte_does_nothing(
    serve: Callable[..., PacsServer], service: str, instances: list[Dataset]
) -> None:
    with collecting() as destination:
        pacs = serve(remote_aes=[destination.remote])
        assert servers.store(pacs, *instances) == [0, 0]
        study = str(instances[0].StudyInstanceUID)
        if service == "set":
            assert done(pacs, request("create", study)) == 0
        whole = request(service, study)
        with RawPeer.associated(pacs.address) as neighbour:
            before, sockets = held(pacs), open_sockets()
            for at in range(len(whole)):
                # So near the end an abort would pass for the rest of the request.
                for end in ENDINGS if at < len(whole) - len(encode_abort()) else (close, reset):
                    with associated(pacs) as peer:
                        peer.send(whole[:at])
                        end(peer)
                assert at % 50 or neighbour.echo() == 0
            assert is_at_rest(pacs, 1)
            assert eventually(lambda: open_sockets() == sockets)
            assert held(pacs) == before
            assert destination.instances == []
            # A step that had been made would be one that is there already.
            assert done(pacs, whole) == 0


@pytest.mark.parametrize("end", ENDINGS)
def test_a_proposal_that_ends_at_any_byte(serve: Callable[..., PacsServer], end: Callable[[RawPeer], None]) -> None:
    pacs = serve()
    whole = encode_request(PROPOSAL)
    for at in range(len(whole) + 1):
        with RawPeer(pacs.address) as peer:
            peer.send(whole[:at])
            end(peer)
    assert is_at_rest(pacs, 0)
    assert done(pacs, request("echo", "")) == 0


@pytest.mark.parametrize("end", ENDINGS)
def test_a_peer_that_goes_away_before_its_answer_has_been_served(
    serve: Callable[..., PacsServer], end: Callable[[RawPeer], None]
) -> None:
    """What was asked in full is done, or not, as a whole; the release may be cut anywhere."""
    pacs = serve()
    whole = request("store", "")
    for at in range(len(RELEASE_RQ) + 1):
        with associated(pacs) as peer:
            peer.send(whole + RELEASE_RQ[:at])
            end(peer)
    assert is_at_rest(pacs, 0)
    assert len(servers.stored_files(pacs)) == pacs.status()["counts"]["instances"] <= 1
    assert done(pacs, whole) == 0
    assert len(servers.stored_files(pacs)) == pacs.status()["counts"]["instances"] == 1


# Of what the server sends: within the first header, within the first instance, between, near the end.
READ = (0, 3, 100, 60_000, 1_000_000, 2_800_000)


@pytest.mark.parametrize("end", ENDINGS)
def test_a_peer_that_goes_away_while_the_server_sends(
    serve: Callable[..., PacsServer], end: Callable[[RawPeer], None]
) -> None:
    """More than the network between them holds, so that the server is in the middle of it."""
    pacs = serve()
    instances = make_study(1, 2, Rows=1200, Columns=1200, PixelData=bytes(2 * 1200 * 1200))
    assert servers.store(pacs, *instances) == [0, 0]
    study = str(instances[0].StudyInstanceUID)
    with RawPeer.associated(pacs.address) as neighbour:
        for size in READ:
            with associated(pacs) as peer:
                peer.send(request("get", study))
                peer.skip(size)
                end(peer)
            assert neighbour.echo() == 0
        assert is_at_rest(pacs, 1)
        assert done(pacs, request("get", study)) == 0
