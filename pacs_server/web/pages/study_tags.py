"""What is in a study: the instances of a series, and the attributes and the file of an instance."""

import json
from itertools import islice
from typing import Any, Final

from pydicom.datadict import dictionary_description
from pydicom.uid import UID
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.private_known import normalised
from pacs_server.errors import NotFound
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.study import NO_PICTURES, whole
from pacs_server.web.pages.tag_tree import CUT, matching, tree

_MOST_INSTANCES: Final = 1000
# The attributes of an instance of very many frames may be larger than a page should be.
_MOST_BYTES: Final = 8 << 20
# So many different values of private attributes are shown under standard names, of so many that are looked at.
_MOST_KNOWN: Final = 20
_MOST_LOOKED_AT: Final = 10_000


class StudyTags:
    """The rooms /studies/{study}/series/{series} and /studies/{study}/instances/{instance}."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The pages."""
        guarded = self._pages.guarded
        return [
            Route("/studies/{study}/series/{series}", guarded(self._series), methods=["GET"]),
            Route("/studies/{study}/instances/{instance}", guarded(self._instance), methods=["GET"]),
        ]

    async def _series(self, request: Request) -> Response:
        ask, uids = self._pages.ask, request.path_params
        study = await ask(request, "show_study", {"study": uids["study"]})
        series = await ask(request, "show_series", {"series": uids["series"]})
        _check(series, study)
        after = request.query_params.get("after")
        keys = {"SeriesInstanceUID": series.SeriesInstanceUID, "StudyInstanceUID": study.StudyInstanceUID}
        page = await ask(request, "list_instances", query={**keys, "limit": _MOST_INSTANCES, "after": after})
        return self._pages.show(
            request,
            "study_series.html",
            study=study,
            tab="",
            one=series,
            instances=sorted(page.items, key=lambda each: (whole(each.InstanceNumber), each.SOPInstanceUID)),
            following=page.next and page.next.rpartition("after=")[2],
            no_pictures=NO_PICTURES,
            class_name=class_name,
        )

    async def _instance(self, request: Request) -> Response:
        ask, uids = self._pages.ask, request.path_params
        study = await ask(request, "show_study", {"study": uids["study"]})
        one = await ask(request, "show_instance", {"instance": uids["instance"]})
        _check(one, study)
        path = {"instance": one.SOPInstanceUID}
        body = await ask.whole(request, "show_tags", path, _MOST_BYTES)
        q = request.query_params.get("q", "")
        data_set = None if body is None else json.loads(body)
        nodes = None if data_set is None else tree(data_set)
        return self._pages.show(
            request,
            "study_tags.html",
            study=study,
            tab="",
            one=one,
            nodes=None if nodes is None else matching(nodes, q),
            known=known_values(data_set or {}),
            q=q,
            cut=CUT,
            file=await ask(request, "show_file", path) if self._may_see_file(request) else None,
            no_pictures=NO_PICTURES,
            class_name=class_name,
        )

    def _may_see_file(self, request: Request) -> bool:
        return self._pages.ask.may(request, "show_file")


def known_values(data_set: DataSet) -> list[tuple[str, str, str]]:
    """What private attributes tell under standard names: name, values and creator, each once."""
    found = (
        (
            dictionary_description(each.known.tag) if each.known.tag else each.known.keyword,
            " \\ ".join(f"{value:.6g}" for value in each.values),
            each.known.creator,
        )
        for each in normalised(data_set)
    )
    return list(islice(dict.fromkeys(islice(found, _MOST_LOOKED_AT)), _MOST_KNOWN))


def _check(row: Any, study: Any) -> None:
    """Raise NotFound if something is of another study than the address says."""
    if row.StudyInstanceUID != study.StudyInstanceUID:
        raise NotFound("there is nothing of that name in this study")


def class_name(uid: str | list[str]) -> str:
    """The name of a SOP class or transfer syntax; the UID of one that the Standard does not know."""
    return ", ".join(str(UID(each).name) for each in ([uid] if isinstance(uid, str) else uid))
