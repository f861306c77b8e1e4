"""Stopping and killing a server while a peer has many C-STORE requests outstanding: what was answered is kept."""

import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from commandline import call_command
from datasets import make_ct
from processes import PacsProcess
from rawpeer import Instance
from servers import CT, EXPLICIT, IMPLICIT, VERIFICATION, RawPeer, message, proposal, store_request

from pacs_server.scp.contexts import WINDOW

_MOST = 3000
_FIRST = "1.2.826.0.1.3680043.8.498.999999"


class Sender:
    """A peer that stores without end, as many requests ahead of the answers as it was granted."""

    def __init__(self, port: int) -> None:
        self.peer = RawPeer(("127.0.0.1", port))
        contexts = proposal((VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT]), async_operations=(0, 0))
        granted = self.peer.associate(contexts).user.async_operations
        assert granted == (WINDOW, 1)
        self._may_send = threading.Semaphore(WINDOW)
        self._instance = Instance.of(make_ct(sop=_FIRST, rows=32, columns=32))
        self.sent: list[str] = []
        self.acknowledged: list[str] = []
        self.ended = False
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        with suppress(OSError):
            while not self.ended and len(self.sent) < _MOST:
                self._may_send.acquire()
                # Of the same length, so that nothing has to be encoded, which would take longer than storing it.
                uid = f"1.2.826.0.1.3680043.8.498.{100_000 + len(self.sent)}"
                self.sent.append(uid)
                data = self._instance.data.replace(_FIRST.encode(), uid.encode())
                self.peer.send(message(3, store_request(uid, len(self.sent)), data))

    def read(self, count: int = _MOST) -> None:
        """Take so many answers, or as many as come until the association ends."""
        for number in range(len(self.acknowledged), len(self.acknowledged) + count):
            try:
                answer = self.peer.read_message().command
            except (EOFError, AssertionError):  # nothing comes any more, or an A-ABORT instead of a message
                return
            assert (answer.message_id_being_responded_to, answer.status) == (number + 1, 0)
            self.acknowledged.append(str(answer.affected_sop_instance_uid))
            self._may_send.release()

    def end(self) -> None:
        """Close the connection and end the thread."""
        self.ended = True
        self.peer.socket.close()
        self._may_send.release()
        self._thread.join(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_answered_is_kept(database_url: str, tmp_path: Path, number: signal.Signals) -> None:
    with PacsProcess(tmp_path / "pacs", database_url) as pacs:
        sender = Sender(pacs.port)
        try:
            sender.read(50)
            assert len(sender.acknowledged) == 50
            pacs.send_signal(number)
            sender.read()
        finally:
            sender.end()
        assert pacs.wait() == (0 if number == signal.SIGTERM else -signal.SIGKILL)

        assert sender.acknowledged == sender.sent[: len(sender.acknowledged)]
        assert len(sender.acknowledged) < len(sender.sent)
        if number == signal.SIGTERM:
            # The operation that ran was finished; the others were not begun, nor were they answered.
            assert pacs.incoming() == []
            assert {path.stem for path in pacs.files()} == set(sender.acknowledged)
        pacs.start()
        kept = {path.stem for path in pacs.files()}
        assert set(sender.acknowledged) <= kept <= set(sender.sent)
        assert call_command("verify", "--config", pacs.config_file, cwd=pacs.directory).returncode == 0
