"""WADO-RS: studies, series and instances as a whole (PS3.18 10.4)."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from email.utils import formatdate
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Caller
from pacs_server.dicom.frame_codecs import ENCODERS
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs_server.errors import NotAcceptable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.queries import Selection
from pacs_server.services.transcode import can_transcode
from pacs_server.web.accept import Accepted, accepted, not_acceptable
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.bulkdata import BulkData
from pacs_server.web.dicomweb.instance_parts import READ_WHOLE, InstanceParts, Opened, Opener, Planned
from pacs_server.web.dicomweb.media_types import DICOM, OCTET_STREAM, ZIP
from pacs_server.web.dicomweb.ranges import ByteRange, byte_range, conditions
from pacs_server.web.dicomweb.resources import BELOW_A_STUDY, instance_url
from pacs_server.web.dicomweb.transfers import Transfer
from pacs_server.web.dicomweb.viewing import Views, entity_tag, select_with_subjects
from pacs_server.web.dicomweb.zip_contents import ZipContents, wants_rest, zip_contents
from pacs_server.web.services import WebServices
from pacs_server.web.streams import Piece, PiecewiseResponse
from pacs_server.web.threads import in_thread, iterate_in_threads, soon_in_thread

# PS3.18 8.7.3: Implicit VR and big endian are not used in web services, unless the client asks for what is stored.
_NOT_FOR_THE_WEB: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
_OFFERED: Final = (f'multipart/related; type="{DICOM}"', DICOM, ZIP)


class _Form(NamedTuple):
    """What the client gets: the media type, in parts or not, and the transfer syntaxes that it takes, in its order."""

    media_type: str
    multipart: bool
    transfer_syntaxes: tuple[str, ...] = ()


class WADO:
    """Answers retrievals of whole instances."""

    def __init__(self, services: WebServices, views: Views, opener: Opener, bulk_data: BulkData) -> None:
        """`bulk_data` answers those who want the bulk data of instances and say so in an old way."""
        self._services = services
        self._retrieve = services.retrieve
        self._views = views
        self._opener = opener
        self._bulk_data = bulk_data

    def routes(self) -> list[Route]:
        """The resources."""
        return [Route(path, self.instances) for path in BELOW_A_STUDY]

    async def instances(self, request: Request) -> Response:
        """A study, series or instance: in parts, as a ZIP file, or as one file."""
        form = _form(accepted(request), single="instance" in request.path_params)
        if form.media_type == OCTET_STREAM:
            # PS3.18 10.4.4: instances as octet-stream are their bulk data, for historical reasons.
            return await self._bulk_data.all(request)
        if form.multipart or form.media_type == ZIP:
            return await in_thread(self._all, request, form)
        found = await in_thread(self._one, request, form)
        if isinstance(found, Planned):
            return await self._opener.workers.run(self._file_of, request, found)
        return found

    # ---------------------------------------------------------------- what blocks, in a thread of the pool

    def _all(self, request: Request, form: _Form) -> Response:
        caller, selection = caller_of(request), self._select(request)
        instances = selection.instances
        url_of = instance_url(request, self._services.config().web)
        if form.media_type == ZIP:
            contents = zip_contents(self._retrieve, instances, without_missing=wants_rest(request))
            return self._zip(request, selection, caller, contents)
        planned = [each for each in (_plan(stored, form) for stored in instances) if each is not None]
        if not planned:
            raise NotAcceptable(f"no instance can be had in any of {', '.join(form.transfer_syntaxes)}")
        transfer = self._transfer(request, caller, selection, [each.instance for each in planned])
        parts = InstanceParts(self._opener, planned, url_of, transfer)
        end = _end_of(transfer)
        if transfer is not None:
            try:
                parts.begin()
            except BaseException:
                transfer.end()
                raise

        def close() -> None:
            parts.close()
            end()

        # PS3.18 10.4.3.1: some of the instances cannot be had as the client wants them.
        status = 200 if len(planned) == len(instances) else 206
        return PiecewiseResponse(
            parts.body() if transfer else _nothing(),
            parts.content_type,
            status,
            {"vary": "accept"},
            length=parts.length,
            close=close,
        )

    def _one(self, request: Request, form: _Form) -> Response | Planned:
        """The answer with one instance; what is to be made, if that takes more than to read it."""
        selection = self._select(request)
        planned = _plan(selection.instances[0], form)
        if planned is None:
            raise NotAcceptable(f"the instance cannot be had in any of {', '.join(form.transfer_syntaxes)}")
        return self._file_of(request, planned, selection) if planned.is_stored_so else planned

    def _file_of(self, request: Request, planned: Planned, selection: Selection | None = None) -> Response:
        stored, one = planned.instance, self._opener.open(planned, whole=READ_WHOLE)
        planned = one.planned
        size = one.file_size
        headers = {
            "etag": entity_tag(stored, stored.version, planned.transfer_syntax_uid),
            "last-modified": formatdate(one.modified_ns // 1_000_000_000, usegmt=True),
            "accept-ranges": "none" if size is None else "bytes",
            "vary": "accept",
            "content-location": instance_url(request, self._services.config().web)(stored),
        }
        try:
            answer = conditions(request, headers) or byte_range(request, headers, size)
            if isinstance(answer, Response):
                one.close()
                return answer
            transfer = self._transfer(request, caller_of(request), selection, [stored])
        except BaseException:
            one.close()
            raise

        def close() -> None:
            one.close()
            _end_of(transfer)()

        return PiecewiseResponse(
            self._file(one, answer, transfer),
            planned.content_type,
            206 if answer else 200,
            headers | (answer.headers(size) if answer and size else {}),
            length=answer.stop - answer.start if answer else size,
            close=close,
        )

    async def _file(self, one: Opened, part: ByteRange | None, transfer: Transfer | None) -> AsyncIterator[Piece]:
        """The bytes of a DICOM file, or of a part of it."""
        if transfer is None:
            return
        async for piece in self._opener.file(one, part):
            yield piece
        transfer.completed(one.planned.instance)

    def _zip(self, request: Request, selection: Selection, caller: Caller, contents: ZipContents) -> Response:
        transfer = self._transfer(request, caller, selection, selection.instances)
        uids = request.path_params
        name = uids.get("instance") or uids.get("series") or uids["study"]
        headers = {"content-disposition": f'attachment; filename="{name}.zip"', "vary": "accept"}
        body = self._zipped(contents, transfer) if transfer else iter(())
        return PiecewiseResponse(iterate_in_threads(body), ZIP, headers=headers, close=_end_of(transfer))

    def _zipped(self, contents: ZipContents, transfer: Transfer) -> Iterator[bytes]:
        contents.note(transfer)
        yield from self._services.exports.zipped(contents.there, transfer.completed, lost=contents.lost)
        transfer.end()

    def _select(self, request: Request) -> Selection:
        return select_with_subjects(self._retrieve, request.path_params, caller_of(request))

    def _transfer(
        self, request: Request, caller: Caller, selection: Selection | None, instances: Sequence[StoredInstance]
    ) -> Transfer | None:
        """The record of what leaves; None if nothing does."""
        if request.method == "HEAD":
            return None
        return self._views.transfer(caller, instances, selection and selection.subjects)


def _form(ranges: Sequence[Accepted], *, single: bool) -> _Form:
    """The form that the client likes best. Raises NotAcceptable."""
    for each in ranges:
        if each.media_type == ZIP:
            return _Form(ZIP, multipart=False)
        if each.media_type == OCTET_STREAM and each.multipart:
            return _Form(OCTET_STREAM, multipart=True)
        # PS3.18 10.4.4: parts are the default, and only one instance can be had without.
        multipart = each.multipart is not False
        if each.takes(DICOM) and (multipart or single):
            alike = [other for other in ranges if other.takes(DICOM) and (other.multipart is not False) == multipart]
            return _Form(DICOM, multipart, tuple(other.transfer_syntax for other in alike))
    raise not_acceptable(_OFFERED if single else (_OFFERED[0], ZIP))


def _plan(stored: StoredInstance, form: _Form) -> Planned | None:
    """An instance as it is stored if the client takes that, else decoded, else encoded; None if it takes neither."""
    own, wanted = stored.transfer_syntax_uid, form.transfer_syntaxes
    if own in wanted or "*" in wanted or ("" in wanted and own not in _NOT_FOR_THE_WEB):
        return Planned(stored, own)
    if can_transcode(own, EXPLICIT_VR_LITTLE_ENDIAN):
        if {"", EXPLICIT_VR_LITTLE_ENDIAN} & set(wanted):
            return Planned(stored, EXPLICIT_VR_LITTLE_ENDIAN, or_stored="" in wanted)
        # Encoding takes longer, so that it comes last.
        if (encoded := next((each for each in wanted if each in ENCODERS), None)) is not None:
            return Planned(stored, encoded)
    return None


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _end_of(transfer: Transfer | None) -> Callable[[], None]:
    """Ends the record without keeping the client waiting: a thread writes it soon after everything was sent."""

    def end() -> None:
        if transfer is not None:
            soon_in_thread(transfer.end)

    return end
