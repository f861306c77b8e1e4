"""The parts that apply routing rules, and the handlers of the tasks that follow from them."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pacs_server import __version__
from pacs_server.app.runtime import Runtime
from pacs_server.config.tls import client_context
from pacs_server.dicom.deidentification import Deidentifier
from pacs_server.dicom.tag_changes import Modifier
from pacs_server.index.deliveries import Forwarding
from pacs_server.index.feed import Effect
from pacs_server.index.instances import StoredInstance
from pacs_server.index.routing import RoutingIndex
from pacs_server.index.state import StateIndex
from pacs_server.outbox.completion import CompletionHandler
from pacs_server.outbox.handler import Handler
from pacs_server.outbox.router import Router
from pacs_server.outbox.webhook import WebhookHandler
from pacs_server.scu.sending import Outgoing, outgoing
from pacs_server.services.actions import STUDY_COMPLETE, WEBHOOK, Actions, ForwardOrder
from pacs_server.services.altering import AlteringService
from pacs_server.services.deidentifying import DeidentifyingService
from pacs_server.services.routing import Alteration
from pacs_server.services.rule_engine import RuleEngine

_STUDIES: Final = "/dicom-web/studies/"
# Where the secret of de-identification is kept in the index.
_SECRET: Final = "deidentification.secret"  # noqa: S105 - a name


class RoutingParts:
    """What a running server needs for routing rules."""

    def __init__(self, runtime: Runtime) -> None:
        archive = runtime.archive
        self._runtime = runtime
        self._kept_secret = b""
        self._index = RoutingIndex(archive.database)
        self.engine = RuleEngine(self._index, lambda: runtime.settings.rules)
        self._altering = AlteringService(archive.retrieve, self._modifier, Deidentifier(self._secret))
        self.deidentifying = DeidentifyingService(self._altering)
        self._actions = Actions(runtime.config, self.engine, archive.tasks, self._forwarding, archive.marks)

    def router(self) -> Router:
        """The part that follows the feed."""
        return Router(self._runtime.archive.feed, self.engine, self._actions)

    def handlers(self) -> dict[str, Handler]:
        """The handlers of the tasks that rules make, by kind."""
        runtime = self._runtime
        return {
            STUDY_COMPLETE: CompletionHandler(
                self._index, self.engine, self._actions, lambda: runtime.config().routing, self._is_sending
            ),
            WEBHOOK: WebhookHandler(
                runtime.config, lambda: client_context(runtime.config(), check_hostname=True), self._study
            ),
        }

    def prepare(self, stored: StoredInstance, forwarding: Forwarding) -> Outgoing:
        """What is sent of a stored instance: itself, or what the rule makes of it."""
        if not forwarding.changes:
            return outgoing(self._runtime.archive.retrieve, stored)
        alteration = Alteration.of_json(forwarding.changes[0])
        uids, syntax = self._altering.describe(stored, alteration)
        what = f"changed by {forwarding.caused_by}"
        return Outgoing(uids, stored.sop_class_uid, syntax, lambda: self._altering.open(stored, alteration, what))

    def _modifier(self) -> Modifier:
        return Modifier(self._runtime.ae_title(), self._runtime.archive.sessions.archive_id(), __version__)

    def _secret(self) -> bytes:
        """Decides which UIDs and Patient IDs de-identified objects get; as long as the index lives, the same."""
        if not self._kept_secret:
            state = StateIndex(self._runtime.archive.database)
            self._kept_secret = bytes.fromhex(state.put_once(_SECRET, secrets.token_hex(32)))
        return self._kept_secret

    def _forwarding(self, orders: Sequence[ForwardOrder], now: datetime) -> list[Effect]:
        forwarding = self._runtime.archive.forwarding
        return [
            forwarding.plan(
                forwarding.forwarding(
                    each.remote, each.rule, each.study_instance_uid, f"rule {each.rule}",
                    priority=each.priority, changes=[each.alteration] if each.alteration else [],
                ),
                each.instances,
            )
            for each in orders
        ]  # fmt: skip

    def _is_sending(self, ae_title: str, address: str) -> bool:
        """Whether an AE title has an association open from an address."""
        for connection in self._runtime.connections.established_now():
            association = connection.association
            if association is not None and (association.calling_ae, connection.address) == (ae_title, address):
                return True
        return False

    def _study(self, study_instance_uid: str) -> Mapping[str, Any]:
        told: dict[str, Any] = self._index.study(study_instance_uid)
        public = self._runtime.config().web.public_url
        return told | ({"url": f"{public}{_STUDIES}{study_instance_uid}"} if public else {})
