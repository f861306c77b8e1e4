"""Query/Retrieve FIND SCP (PS3.4 C.4.1)."""

from collections.abc import Callable
from contextlib import closing

from pacs_server.dicom.identifier import Query, QueryOptions, parse_find
from pacs_server.dicom.levels import InformationModel
from pacs_server.errors import InvalidIdentifier
from pacs_server.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.scp.contexts import SOP_CLASSES
from pacs_server.scp.dispatch import Result, response_to
from pacs_server.scp.status import Status
from pacs_server.scp.suboperations import cancel_requested
from pacs_server.services.query import QueryService

# Responses in one write; between writes a C-CANCEL is looked for.
_BATCH = 16


class QueryRetrieveFindSCP:
    """Answers C-FIND; matches go out as they are read from the index."""

    def __init__(self, queries: QueryService, retrieve_ae_title: Callable[[], str], metrics: Metrics) -> None:
        self._queries = queries
        self._retrieve_ae_title = retrieve_ae_title
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Send a pending response per match, then the final one."""
        query = self._query(association, message)
        count, cancelled = self._send_matches(association, message, query)
        self._metrics.matches(count)
        status = Status.CANCEL if cancelled else Status.SUCCESS
        association.send(message.context.context_id, response_to(message, status))
        return Result(status, {"level": query.level.name, "matches": count})

    def _query(self, association: Association, message: Message) -> Query:
        data = identifier_of(association, message)
        agreed = association.extended.get(message.context.abstract_syntax, b"").ljust(3, b"\0")
        # PS3.4 C.5.1.1: relational queries, combined date-time matching, fuzzy semantic matching of names.
        options = QueryOptions(*(bool(byte) for byte in agreed[:3]))
        return parse_find(data, message.context.transfer_syntax, model_of(message), options)

    def _send_matches(self, association: Association, message: Message, query: Query) -> tuple[int, bool]:
        context = message.context
        # PS3.4 C.4.1.1.4: FF01 when a key that was asked for is not supported.
        status = Status.PENDING_WITH_UNSUPPORTED_KEYS if query.unsupported else Status.PENDING
        pending = response_to(message, status)
        pending.command_data_set_type = 1
        command = association.encode_command(context.context_id, pending)
        count = 0
        batch: list[bytes] = []
        # Closed however this ends, so that the index gets its connection back at once.
        with closing(self._queries.find(query, context.transfer_syntax, self._retrieve_ae_title())) as matches:
            for identifier in matches:
                batch += (command, association.encode_data(context.context_id, identifier))
                count += 1
                if len(batch) == 2 * _BATCH:
                    association.send_encoded(batch)
                    batch = []
                    if cancel_requested(association, message):
                        return count, True
        if batch:
            association.send_encoded(batch)
        return count, False


def identifier_of(association: Association, message: Message) -> bytes:
    """Read the identifier of a request. Raises InvalidIdentifier if there is none."""
    if not message.command.has_data_set:
        raise InvalidIdentifier("the request has no identifier")
    return association.read_data()


def model_of(message: Message) -> InformationModel:
    """The information model that the request's context is about; for contexts of Query/Retrieve only."""
    model = SOP_CLASSES[message.context.abstract_syntax].model
    assert model is not None
    return model
