"""Sends instances to a DICOMweb remote by STOW-RS, and tells what it answered about each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from typing import Final

from pacs_server.dicom.status import Status
from pacs_server.errors import PacsError, RemoteBusy, RemoteError, RemoteUnreachable, TranscodeError
from pacs_server.kit.closing import Closing
from pacs_server.scu.dicomweb.client import DICOMwebClient, Document
from pacs_server.scu.dicomweb.qido import holds, probe
from pacs_server.scu.dicomweb.store_answer import WARNED, StoreAnswer, read_answer, refused
from pacs_server.scu.dicomweb.stow import OpenInstance, opened, request_body
from pacs_server.scu.sending import Answer, Outgoing

# As much goes into one request if several instances are sent together.
_MOST_BYTES: Final = 16 * 1024 * 1024
_MOST_INSTANCES: Final = 32
_TELLING: Final = (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT)


class DICOMwebSender(Closing):
    """A `Sender` for a DICOMweb remote."""

    def __init__(self, client: DICOMwebClient, close: Callable[[], None]) -> None:
        """`close` is called at the end."""
        self._client = client
        self._close = close

    def close(self) -> None:
        """Give the client back."""
        self._close()

    def send(self, instance: Outgoing, upcoming: Outgoing | None = None) -> Answer:
        """Send one instance and return what the remote answered; see `Sender.send`."""
        return next(self.send_all([instance]))

    def send_all(self, instances: Sequence[Outgoing]) -> Iterator[Answer]:
        """Send instances, several small ones in one request, and tell the answers in their order.

        Raises as `send`, and then nothing is known of the instances without an answer.
        """
        left = list(instances)
        while left:
            with ExitStack() as resources:
                batch, failure = self._batch(left, resources)
                yield from self._stored(batch) if batch else ()
                del left[: len(batch)]
            if failure is not None:
                left.pop(0)
                yield failure

    def _batch(self, left: Sequence[Outgoing], resources: ExitStack) -> tuple[list[OpenInstance], Answer | None]:
        """The next instances that go into one request, and the failure of the one after them if it cannot be sent."""
        batch: list[OpenInstance] = []
        size = 0
        for instance in left[:_MOST_INSTANCES]:
            try:
                one = opened(instance, self._client.remote.transfer_syntaxes, resources)
            except PacsError as error:
                permanent = isinstance(error, TranscodeError)
                return batch, Answer(Status.PROCESSING_FAILURE, permanent, f"not sent: {error}")
            if batch and size + one.size > _MOST_BYTES:
                break
            batch.append(one)
            size += one.size
        return batch, None

    def _stored(self, batch: Sequence[OpenInstance]) -> list[Answer]:
        label = self._client.label("/studies")
        document = self._asked(batch, label)
        if isinstance(document, Answer):
            return [document] * len(batch)
        told = read_answer(document)
        answers = [told.answer(one.instance.uids.sop, label, alone=len(batch) == 1) for one in batch]
        if document.status not in _TELLING and not any(answers):
            error = self._client.refusal(document, "a store request")
            if isinstance(error, RemoteBusy | RemoteUnreachable):
                raise error
        is_empty = not document.body.strip()
        return [
            self._unnamed(one, told, label, is_empty=is_empty) if answer is None else answer
            for one, answer in zip(batch, answers, strict=True)
        ]

    def _asked(self, batch: Sequence[OpenInstance], label: str) -> Document | Answer:
        """What the remote answers, or why nothing is known of these instances."""
        try:
            return self._client.document("POST", "/studies", content=request_body(batch))
        except RemoteBusy:
            raise
        except RemoteUnreachable as error:
            if not error.was_reached:
                raise
            # Is it the remote, or is it these instances?
            probe(self._client)
            return Answer(Status.PROCESSING_FAILURE, detail=str(error), association=label)
        except PacsError as error:
            reason = str(error) if isinstance(error, RemoteError) else f"not sent: {error}"
            return Answer(Status.PROCESSING_FAILURE, detail=reason, association=label)

    def _unnamed(self, one: OpenInstance, told: StoreAnswer, label: str, *, is_empty: bool) -> Answer:
        """The answer about an instance that the remote does not name: it is asked whether it has the instance."""
        uids = one.instance.uids
        if told.status in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
            found = holds(self._client, uids.study, uids.series, uids.sop)
            # PS3.18 Table 10.5.3-1: 200 means that all were stored.
            if found or (found is None and is_empty and told.status == HTTPStatus.OK):
                status = Status.SUCCESS if told.status == HTTPStatus.OK else WARNED
                return Answer(status, detail="the answer does not name the instance", association=label)
            return Answer(
                Status.PROCESSING_FAILURE, detail="the remote answers success and does not have it", association=label
            )
        return refused(told.status, label)
