"""Which of the matches of a query to return, and in which order."""

from dataclasses import dataclass

from pacs_server.dicom.attributes import Attribute


@dataclass(frozen=True, slots=True)
class Order:
    """The attribute to sort matches by."""

    attribute: Attribute
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the matches of a query.

    `offset` matches are skipped, and at most `limit` are returned, all if it is None. Matches are sorted by `orders`.
    Those that are equal in all of them come in the order of arrival in the archive, or with `newest_first` in the
    reverse order. So the same page of an unchanged archive always holds the same matches.
    """

    limit: int | None = None
    offset: int = 0
    orders: tuple[Order, ...] = ()
    newest_first: bool = False


WHOLE = Page()
"""All matches, in the order of arrival."""
