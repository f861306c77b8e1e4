"""Query/Retrieve FIND SCP (PS3.4 C.4.1)."""

from collections.abc import Callable

from pacs_server.audit.auditor import Auditor
from pacs_server.dicom.identifier import Query, QueryOptions, parse_find
from pacs_server.dicom.levels import InformationModel
from pacs_server.dicom.response import ResponseEncoder
from pacs_server.errors import InvalidIdentifier
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.scp.contexts import SOP_CLASSES
from pacs_server.scp.dispatch import Result
from pacs_server.scp.matches import keys_used, send_matches
from pacs_server.services.query import QueryService


class QueryRetrieveFindSCP:
    """Answers C-FIND; matches are sent while they are read from the index."""

    def __init__(
        self, queries: QueryService, retrieve_ae_title: Callable[[], str], auditor: Auditor, metrics: Metrics
    ) -> None:
        self._queries = queries
        self._retrieve_ae_title = retrieve_ae_title
        self._auditor = auditor
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Send a pending response for each match, then the final one."""
        with self._auditor.query(association.caller, message.context.abstract_syntax) as record:
            query = self._query(association, message)
            record.keys(query.texts)
            rows = self._queries.find(query, association.caller.scope).rows
            encoder = ResponseEncoder(query, message.context.transfer_syntax, self._retrieve_ae_title())
            unsupported = bool(query.unsupported)
            count, status = send_matches(association, message, rows, encoder.encode, record, unsupported=unsupported)
        self._metrics.matches(count)
        return Result(status, {"level": query.level.name, "matches": count, "keys": keys_used(query.texts)})

    def _query(self, association: Association, message: Message) -> Query:
        data = identifier_of(association, message)
        agreed = association.extended.get(message.context.abstract_syntax, b"").ljust(3, b"\0")
        # PS3.4 C.5.1.1: relational queries, combined date-time matching, fuzzy semantic matching of names.
        options = QueryOptions(*(bool(byte) for byte in agreed[:3]))
        return parse_find(data, message.context.transfer_syntax, model_of(message), options)


def identifier_of(association: Association, message: Message) -> bytes:
    """Read the identifier of a request. Raises InvalidIdentifier if there is none."""
    if not message.command.has_data_set:
        raise InvalidIdentifier("the request has no identifier")
    return association.read_data()


def model_of(message: Message) -> InformationModel:
    """The information model of the request's context, which has to be one of Query/Retrieve."""
    model = SOP_CLASSES[message.context.abstract_syntax].model
    assert model is not None
    return model
