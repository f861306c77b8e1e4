"""The page of vendors is what the tables say."""

from collections.abc import Callable

from vendor_page import page


def test_the_page_is_fresh(document: Callable[[str], str]) -> None:
    assert document("docs/vendors.md") == page(), "make conformance"
