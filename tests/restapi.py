"""The REST API on an archive of its own, without a server process: requests go straight into the application."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import schema
from datasets import make_study, write_part10
from pydicom.dataset import Dataset
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.testclient import TestClient

from pacs_server.app.assembly import entity_settings, remote_aes, start_archive
from pacs_server.audit.auditor import Auditor
from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.audit.record import Record
from pacs_server.config.model import Config
from pacs_server.dicom.caller import Caller, Door, Role
from pacs_server.dicom.deidentification import Deidentifier
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.scope import Scope
from pacs_server.dicom.tag_changes import Modifier
from pacs_server.index.routing import RoutingIndex
from pacs_server.kit.metrics import Metrics
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.link import Requestor
from pacs_server.scu.pool import Pool
from pacs_server.scu.queries import RemoteQueries
from pacs_server.scu.remotes import Remotes
from pacs_server.services.altering import AlteringService
from pacs_server.services.associations import OpenAssociation, RecentAssociations, Traffic
from pacs_server.services.deidentifying import DeidentifyingService
from pacs_server.services.events import EventHub
from pacs_server.services.export import ExportService
from pacs_server.services.routing import compile_rules
from pacs_server.services.rule_engine import RuleEngine
from pacs_server.services.users import UserService
from pacs_server.web.api.door import RESTAPI
from pacs_server.web.api.operation import PREFIX, Operation
from pacs_server.web.door import error_handlers
from pacs_server.web.middleware import Gate
from pacs_server.web.services import Spoken, WebServices

ORIGIN = Origin("CT1", "PACS", "10.0.0.7", Door.DIMSE)
ANN = Caller(Door.WEB, "10.0.0.9", user="ann", role=Role.ADMINISTRATOR)
LIMITED = Scope(modalities=("MR",))
STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "ae_title": "PACS",
    "address": "127.0.0.1:11112",
    "tls_address": None,
    "not_ready": None,
    "counts": {"patients": 1, "studies": 1, "series": 1, "instances": 1},
    "storage": {
        **{"directory": "/data", "free_bytes": 1, "total_bytes": 2, "days_left": 3.5, "bytes_per_day": 0.5},
        "quarantine_files": 0,
    },
    "backup": None,
    "last_reload": {"at": "2026-01-01T00:00:00", "result": "ok", "needs_restart": ["server.port"]},
}
OPEN = OpenAssociation("CT1", "PACS", "10.0.0.7", None, False, Traffic(10, 20, 1.5))

SPOKEN = Spoken(
    sop_classes=["Verification SOP Class"],
    storage_sop_classes=["CT Image Storage"],
    transfer_syntaxes=["Explicit VR Little Endian"],
    statement=lambda: (
        "# Statement\n\n## 1 Overview\n\nA <b>title</b>, `code`.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    ),
)


class RestAPI:
    """The API, and who calls it: `ann`, an administrator, unless a test says otherwise."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        self.directory = directory
        self.config = Config.model_validate(
            {
                "storage": {"directory": directory / "archive", "fsync": "off"},
                "database": {"path": directory / "pacs.db"} if url is None else {"url": url},
                "audit": {"directory": directory / "audit"},
                "user_identity": {"users_path": directory / "users"},
            },
            strict=False,
        )
        if url is None:
            schema.prepare(directory / "pacs.db")
        self.archive = start_archive(lambda: self.config)
        self.recent = RecentAssociations()
        # What reading the configuration again does; a test may say.
        self.reload: Callable[[], bool] = lambda: False
        self.events = EventHub(self.archive.feed, pace=0.01)
        self.caller = ANN
        # What the next requests are found to come from instead, if it is not the caller.
        self.identified: Caller | Response | Exception | None = None
        self.services = services = self._services()
        self.door = RESTAPI(services)
        self.app = Starlette(routes=self.door.routes(), exception_handlers=error_handlers(services.auditor))
        gate = Gate(self.app, lambda: self.config.web, self._identify)
        self.client = TestClient(gate, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 1))

    def _services(self) -> WebServices:
        archive = self.archive
        modifier = Modifier("PACS", "a1b2", "1.0")
        altering = AlteringService(archive.retrieve, lambda: modifier, Deidentifier(lambda: b"secret"))
        deidentifying = DeidentifyingService(altering)
        own: dict[str, Any] = {
            "config": lambda: self.config,
            "auditor": Auditor(archive.audit),
            "metrics": Metrics(),
            "users": UserService(lambda: self.config.user_identity.users_path, archive.audit),
            "events": self.events,
            "recent_associations": self.recent,
            "associations": lambda: [OPEN],
            "status": lambda: STATUS,
            "spoken": SPOKEN,
            "reload": lambda: self.reload(),  # noqa: PLW0108 - a test may replace it
            "deidentifying": deidentifying,
            "exports": ExportService(archive.retrieve, Auditor(archive.audit)),
            "directory_exports": archive.directory_exports,
            "rules": RuleEngine(RoutingIndex(archive.database), lambda: compile_rules(self.config)),
            "remotes": RemoteQueries(self.pool_of_remotes(), OutgoingAuditor(archive.audit)),
        }
        # What only other doors need may be missing here.
        names = (each.name for each in fields(WebServices))
        return WebServices(**{name: own[name] if name in own else getattr(archive, name, None) for name in names})

    def pool_of_remotes(self) -> Remotes:
        """What asks the remotes of the configuration, as it is when they are asked."""
        terms = entity_settings(self.config, None).terms
        pool = Pool(
            Requestor(lambda title: None, lambda: "PACS", lambda: terms),
            idle_seconds=0.0,
            opened=lambda remote, link: self.archive.breakers.seen(remote.name, link.implementation),
        )
        return Remotes(
            pool,
            DICOMwebClients(),
            lambda name: next((each for each in remote_aes(self.config).values() if each.name == name), None),
        )

    def close(self) -> None:
        """Close the archive."""
        self.events.stop()
        self.client.close()
        self.archive.stop()

    async def _identify(self, request: object) -> Caller | Response:
        if isinstance(self.identified, Exception):
            raise self.identified
        return self.identified or self.caller

    def act_as(self, role: Role, scope: Scope | None = None) -> None:
        """Have the next requests come from somebody of this role and these limits."""
        self.caller = replace(ANN, role=role, scope=scope or ANN.scope)

    @property
    def operations(self) -> dict[str, Operation]:
        """The operations by name."""
        return {operation.name: operation for operation in self.door.operations}

    def get(self, path: str, **options: Any) -> Any:
        """The answer to a GET that succeeds, as JSON."""
        answer = self.client.get(PREFIX + path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, method: str, path: str, body: object = None, status: int = 200, **options: Any) -> Any:
        """The answer to a request with a JSON body; `status` is what it has to be."""
        if body is not None:
            options["content"] = json.dumps(body)
            options["headers"] = {"Content-Type": "application/json"} | options.get("headers", {})
        answer = self.client.request(method, path if path.startswith("http") else PREFIX + path, **options)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def store(self, instances: Sequence[Dataset]) -> list[Dataset]:
        """Store instances."""
        for number, ds in enumerate(instances):
            path = write_part10(ds, self.directory / f"{number}.dcm")
            self.archive.store.store_file(path, ORIGIN)
        return list(instances)

    def study(self, n_series: int = 1, n_instances: int = 1, **attributes: object) -> list[Dataset]:
        """Store a study."""
        return self.store(make_study(n_series, n_instances, **attributes))

    def audited(self) -> list[Record]:
        """The records of the audit trail."""
        assert self.archive.trail is not None
        return list(self.archive.trail.records_between(None, None))

    def last_audited(self) -> Record:
        """The last record of the audit trail, which `ann` has to have caused."""
        record = self.audited()[-1]
        (who,) = [one for one in record.event.participants if one.requestor]
        assert (who.user_id, who.address) == ("ann", "10.0.0.9")
        return record
