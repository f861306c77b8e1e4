"""User identity at association: who gets in, what is answered, and what a flood of wrong passwords does to others."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import servers
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import Verification
from servers import IMPLICIT, VERIFICATION, RawPeer, proposal

from pacs_server.app.server import PacsServer
from pacs_server.config import UserIdentityConfig
from pacs_server.config.users import add_user, remove_user
from pacs_server.net.associate import encode_request
from pacs_server.net.negotiation import (
    JWT,
    KERBEROS,
    SAML,
    USERNAME,
    USERNAME_AND_PASSCODE,
    UserIdentity,
)
from pacs_server.net.pdu import PDUType

PASSWORD = "correct horse"
RIGHT = UserIdentity(USERNAME_AND_PASSCODE, True, b"anna", PASSWORD.encode())
WRONG = replace(RIGHT, secondary=b"wrong horse")
REFUSED, PUT_OFF = "rejected 1 2 1", "rejected 2 3 1"

Serve = Callable[[str], PacsServer]


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    add_user(path, "anna", PASSWORD)
    return path


@pytest.fixture
def serving(tmp_path: Path, users: Path) -> Iterator[Serve]:
    """Starts a server with a mode of user identity."""
    running = []

    def start(mode: str) -> PacsServer:
        identity = UserIdentityConfig(mode=mode, users_path=users)  # type: ignore[arg-type]
        context = servers.running(servers.config(tmp_path).model_copy(update={"user_identity": identity}))
        running.append(context)
        return context.__enter__()

    yield start
    for context in running:
        context.__exit__(None, None, None)


def propose(pacs: PacsServer, identity: UserIdentity | None) -> str | bytes | None:
    """The server response after an accepted proposal (None if there is none), or how it was rejected."""
    with RawPeer(pacs.address) as peer:
        peer.send(encode_request(proposal((VERIFICATION, [IMPLICIT]), identity=identity)))
        kind, body = peer.read_pdu()
        if kind == PDUType.ASSOCIATE_RJ:
            assert peer.ending() == "closed"
            return "rejected {} {} {}".format(*body[1:4])
        assert kind == PDUType.ASSOCIATE_AC
        assert peer.echo() == 0
        peer.release()
        return servers.decode_accept(body).user.identity_response


@pytest.mark.parametrize(
    ("identity", "off", "optional", "required"),
    [
        (None, None, None, REFUSED),
        (RIGHT, None, b"", b""),
        (replace(RIGHT, positive_response=False), None, None, None),
        (WRONG, None, REFUSED, REFUSED),
        (replace(RIGHT, primary=b"bert"), None, REFUSED, REFUSED),
        (replace(RIGHT, secondary=b""), None, REFUSED, REFUSED),
        (replace(RIGHT, primary=b"\xff\xfe"), None, REFUSED, REFUSED),
        (replace(RIGHT, primary=b"a" * 60_000), None, REFUSED, REFUSED),
        # What proves nothing to us is as good as nothing, and gets no positive response.
        (UserIdentity(USERNAME, True, b"anna"), None, None, REFUSED),
        (UserIdentity(KERBEROS, True, b"ticket"), None, None, REFUSED),
        (UserIdentity(SAML, True, b"<saml/>"), None, None, REFUSED),
        (UserIdentity(JWT, True, b"a.b.c"), None, None, REFUSED),
        (UserIdentity(99, True, b"?"), None, None, REFUSED),
    ],
)
def test_who_gets_in(
    serving: Serve, identity: UserIdentity | None, off: object, optional: object, required: object
) -> None:
    for mode, expected in (("off", off), ("optional", optional), ("required", required)):
        pacs = serving(mode)
        assert propose(pacs, identity) == expected, mode
        pacs.stop()


def test_pynetdicom_gets_in_and_sees_the_response(serving: Serve) -> None:
    pacs = serving("required")
    item = UserIdentityNegotiation()
    item.user_identity_type, item.positive_response_requested = 2, True
    item.primary_field, item.secondary_field = b"anna", PASSWORD.encode()
    ae = AE()
    ae.add_requested_context(Verification)
    association = ae.associate(*pacs.address, ext_neg=[item])
    assert association.is_established
    assert association.acceptor.user_identity is not None
    association.release()


def test_users_come_and_go_while_the_server_runs(serving: Serve, users: Path) -> None:
    pacs = serving("required")
    bert = replace(RIGHT, primary=b"bert", secondary=b"another word")
    assert propose(pacs, bert) == REFUSED
    add_user(users, "bert", "another word")
    assert propose(pacs, bert) == b""
    remove_user(users, "bert")
    assert propose(pacs, bert) == REFUSED
    users.unlink()
    assert propose(pacs, RIGHT) == REFUSED


def test_a_reload_changes_the_mode(tmp_path: Path, users: Path) -> None:
    settings = servers.config(tmp_path)
    new = settings.model_copy(update={"user_identity": UserIdentityConfig(mode="required", users_path=users)})
    with servers.running(settings, reload=lambda: new) as pacs:
        assert propose(pacs, None) is None
        assert pacs.reload()
        assert propose(pacs, None) == REFUSED
        assert propose(pacs, RIGHT) == b""


def test_the_log_says_the_user_and_never_a_password(serving: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pacs = serving("required")
    assert propose(pacs, RIGHT) == b""
    assert propose(pacs, WRONG) == REFUSED
    records = [vars(record) for record in caplog.records]
    assert [record["user"] for record in records if record["msg"] == "association"] == ["anna"]
    (refused,) = [record for record in records if record["msg"] == "user not identified"]
    assert (refused["user"], refused["reason"], refused["levelname"]) == ("anna", "wrong", "WARNING")
    counted = 'pacs_association_rejections_total{reason="user_identity"} 1.0'
    assert servers.eventually(lambda: counted in pacs.metrics.render().decode())
    told = json.dumps(records, default=repr) + json.dumps(pacs.status()) + pacs.metrics.render().decode()
    assert "horse" not in told


def test_a_flood_of_wrong_passwords_costs_little_and_leaves_others_alone(serving: Serve) -> None:
    pacs = serving("required")
    answers: list[object] = []

    def flood() -> None:
        answers.extend(propose(pacs, replace(WRONG, primary=b"mallory")) for _ in range(5))

    threads = [threading.Thread(target=flood) for _ in range(10)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert propose(pacs, RIGHT) == b""
    for thread in threads:
        thread.join(60)
    assert set(answers) == {REFUSED, PUT_OFF}
    # Five at once and one each twelve seconds, and one more whose turn was at the same moment.
    assert 5 <= answers.count(REFUSED) <= 10
    assert len(answers) == 50


def test_wrong_passwords_take_no_places(tmp_path: Path, users: Path) -> None:
    identity = UserIdentityConfig(mode="required", users_path=users)
    settings = servers.config(tmp_path, max_associations=1).model_copy(update={"user_identity": identity})
    with servers.running(settings) as pacs:
        for _ in range(3):
            assert propose(pacs, WRONG) == REFUSED
        assert propose(pacs, RIGHT) == b""
