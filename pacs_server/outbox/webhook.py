"""The handler of webhooks: tells other systems by HTTP what happened, signed, until they have taken it.

The form of the headers and of the signature is that of Standard Webhooks (standardwebhooks.com): the receiver computes
HMAC-SHA256 over id, timestamp and body with the common secret, and compares.
"""

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from pacs_server.config.model import Config
from pacs_server.config.secrets import read_secret
from pacs_server.config.sections.routing import RoutingRule
from pacs_server.index.task_values import Task
from pacs_server.outbox.handler import Work

# How long each step of a call may take, and the whole of it, in seconds. Of the answer only the status is read.
_TIMEOUT: Final = 10.0
_DEADLINE: Final = 30.0
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret in base64 begins with
# Statuses after which another attempt may succeed (RFC 9110, RFC 6585), besides 5xx.
_TEMPORARY: Final = frozenset({408, 425, 429})
_LONGEST_PAUSE: Final = 3600.0


class WebhookHandler:
    """Calls webhooks; the address and the secret are those of the settings now."""

    together: Final = 10

    def __init__(
        self, config: Callable[[], Config], tls: Callable[[], ssl.SSLContext], study: Callable[[str], Mapping[str, Any]]
    ) -> None:
        """`study` tells what the receiver is told of a study, by its UID."""
        self._config = config
        self._tls = tls
        self._study = study

    def at_once(self, target: str) -> int:
        """Two, so that a receiver that hangs holds up nobody else."""
        return 2

    def run(self, work: Work) -> None:
        """Call one after the other."""
        for task in work.tasks:
            if work.is_interrupted():
                return
            self._call(task, work)

    def stop(self) -> None:
        """A call under way ends by its time-out at the latest; the task is tried again then."""

    def _call(self, task: Task, work: Work) -> None:
        rule = self._rule(str(task.payload["rule"]))
        if rule is None or rule.webhook is None:
            work.give_up(task, f"the rule {task.payload['rule']} is gone, or calls no webhook any more")
            return
        body = self._body(task)
        try:
            headers = {"Content-Type": "application/json", "User-Agent": "pacs-server", **self._signed(task, body)}
        except ValueError as error:
            work.failed(task, f"the file of routing.webhook_secret_file {error}")
            return
        if not work.is_held(task):
            return
        try:
            status, again = self._posted(rule.webhook, body, headers)
        except OSError as error:
            work.failed(task, f"cannot call {task.target}: {error}")
            return
        if 200 <= status < 300:
            work.done(task)
        elif status in (429, 503) and (seconds := _seconds(again)):
            work.busy(task, f"{task.target} answered {status} and asked to come back", seconds)
        elif status >= 500 or status in _TEMPORARY:
            work.failed(task, f"{task.target} answered {status}")
        else:
            work.give_up(task, f"{task.target} answered {status}")

    def _posted(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """The status of the answer and its Retry-After. Raises OSError, also if that takes too long."""
        import httpx2 as httpx  # importing it takes long

        # No redirects: where this server calls is what its settings say.
        with httpx.Client(verify=self._tls(), timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as client:
            # A receiver may answer byte by byte, each of them in time.
            watchdog = threading.Timer(_DEADLINE, client.close)
            watchdog.daemon = True
            watchdog.start()
            try:
                with client.stream("POST", url, content=body, headers=dict(headers)) as response:
                    return response.status_code, response.headers.get("retry-after", "")
            except (httpx.HTTPError, RuntimeError) as error:
                raise OSError(str(error) or type(error).__name__) from error
            finally:
                watchdog.cancel()

    def _rule(self, name: str) -> RoutingRule | None:
        return next((rule for rule in self._config().routing.rules if rule.name == name), None)

    def _body(self, task: Task) -> bytes:
        told = {
            "id": f"task-{task.id}",
            "type": task.payload["event"],
            "timestamp": task.payload["at"],
            "rule": task.payload["rule"],
            "data": {
                **self._study(str(task.payload["study"])),
                "instances_of_rule": task.payload["instances"],
                **({"finding": task.payload["finding"]} if "finding" in task.payload else {}),
            },
        }
        return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()

    def _signed(self, task: Task, body: bytes) -> dict[str, str]:
        file = self._config().routing.webhook_secret_file
        secret = read_secret(file) if file is not None else ""
        identifier, moment = f"task-{task.id}", str(int(time.time()))
        return {
            "webhook-id": identifier,
            "webhook-timestamp": moment,
            "webhook-signature": signature(secret, identifier, moment, body),
        }


def signature(secret: str, identifier: str, timestamp: str, body: bytes) -> str:
    """The value of the header webhook-signature."""
    encoded = secret.startswith(_SECRET_PREFIX)
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX)) if encoded else secret.encode()
    digest = hmac.new(key, f"{identifier}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _seconds(retry_after: str) -> float | None:
    """How long to wait by a header Retry-After: seconds, or a date (RFC 9110 10.2.3)."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 1.0), _LONGEST_PAUSE)
