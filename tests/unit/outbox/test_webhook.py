"""Webhooks: what is said and how it is signed, which answers end a call, and which are tried again."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import schema
from outboxes import Clock, OutboxNode
from servers import free_port

from pacs_server.config import Config
from pacs_server.config.load import load
from pacs_server.index.task_values import Task, TaskState
from pacs_server.index.tasks import Wanted
from pacs_server.outbox import webhook
from pacs_server.outbox.handler import Work
from pacs_server.outbox.webhook import WebhookHandler, signature

SECRET = "the secret that both sides know, and nobody else"


class Hook:
    """A receiver on loopback that answers as told and keeps what it got."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = hook.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?for=ris"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with closing(Hook()) as hook:
        yield hook


class Calls:
    """An outbox with one webhook, and the handler for it."""

    def __init__(self, directory: Path, url: str) -> None:
        schema.prepare(directory / "pacs.db")
        self.directory = directory
        self.node = OutboxNode(f"sqlite:///{directory}/pacs.db", Clock())
        (directory / "secret").write_text(SECRET + "\n")
        self.config = self.configured(f"{{name: told, when: study_complete, webhook: '{url}'}}")
        self.handler = WebhookHandler(
            lambda: self.config, ssl.create_default_context, lambda study: {"study_instance_uid": study, "instances": 7}
        )
        payload = {"rule": "told", "event": "study_complete", "study": "1.2", "instances": 3, "at": "2026-03-29"}
        self.key = self.node.add("127.0.0.1", kind="webhook", payload=payload)

    def configured(self, rule: str) -> Config:
        file = self.directory / "pacs_server.yaml"
        file.write_text(f"routing:\n  webhook_secret_file: secret\n  rules:\n    - {rule}\n")
        return load(file, environ={}, overrides={})

    def run(self) -> Task:
        tasks = self.node.service.claim(Wanted({"webhook": 10}))
        self.handler.run(Work(tasks, self.node.service, lambda: False))
        return self.node.task(self.key)


@pytest.fixture
def calls(tmp_path: Path, hook: Hook) -> Iterator[Calls]:
    calls = Calls(tmp_path, hook.url)
    with closing(calls.node.database):
        yield calls


def test_the_receiver_is_told_and_can_check_who_told_it(hook: Hook, calls: Calls) -> None:
    hook.answers.append((204, {}))
    assert calls.run().state is TaskState.DONE
    ((path, headers, body),) = hook.got
    assert path == "/hook?for=ris"
    told = json.loads(body)
    assert told["type"] == "study_complete"
    assert told["data"] == {"study_instance_uid": "1.2", "instances": 7, "instances_of_rule": 3}
    assert headers["webhook-id"] == told["id"] == f"task-{calls.key}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the reference libraries of Standard Webhooks.
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("answer", "headers", "state", "attempts", "reason"),
    [
        (500, {}, TaskState.READY, 1, "127.0.0.1 answered 500"),
        (429, {}, TaskState.READY, 1, "127.0.0.1 answered 429"),
        (429, {"Retry-After": "120"}, TaskState.READY, 0, "asked to come back"),
        (503, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, TaskState.READY, 0, "asked to come back"),
        (503, {"Retry-After": "soon"}, TaskState.READY, 1, "answered 503"),
        (404, {}, TaskState.DEAD, 1, "127.0.0.1 answered 404"),
        # Nobody is followed elsewhere.
        (302, {"Location": "http://127.0.0.1:1/"}, TaskState.DEAD, 1, "127.0.0.1 answered 302"),
    ],
)
def test_what_the_receiver_answers_decides(
    hook: Hook, calls: Calls, answer: int, headers: dict[str, str], state: TaskState, attempts: int, reason: str
) -> None:
    hook.answers.append((answer, headers))
    task = calls.run()
    assert (task.state, task.attempts) == (state, attempts)
    assert reason in task.last_error
    assert "ris" not in task.last_error


def test_a_receiver_that_is_not_there_is_called_again(hook: Hook, calls: Calls) -> None:
    calls.config = calls.configured(f"{{name: told, webhook: 'http://127.0.0.1:{free_port()}/'}}")
    task = calls.run()
    assert (task.state, task.attempts) == (TaskState.READY, 1)
    assert task.last_error.startswith("cannot call 127.0.0.1: ")


def test_a_receiver_that_drips_its_answer_is_cut_off(hook: Hook, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_DEADLINE", 0.5)
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        taken, _ = listener.accept()
        with taken:
            try:
                while not ended.wait(0.05):
                    taken.sendall(b"H")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        calls.config = calls.configured(f"{{name: told, webhook: 'http://127.0.0.1:{listener.getsockname()[1]}/'}}")
        begun = time.monotonic()
        task = calls.run()
        ended.set()
        thread.join()
    assert task.state is TaskState.READY
    assert time.monotonic() - begun < 30


def test_a_rule_that_is_gone_calls_nobody(hook: Hook, calls: Calls) -> None:
    calls.config = calls.configured("{name: other, label: x}")
    task = calls.run()
    assert task.state is TaskState.DEAD
    assert "is gone" in task.last_error
    assert hook.got == []


def test_without_its_secret_nobody_is_called(hook: Hook, calls: Calls) -> None:
    (calls.directory / "secret").unlink()
    task = calls.run()
    assert (task.state, hook.got) == (TaskState.READY, [])
    assert task.last_error == "the file of routing.webhook_secret_file is not there"
