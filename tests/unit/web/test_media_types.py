"""The media types of frames and bulk data are those of PS3.18 Tables 8.7.3-4 and 8.7.3-5."""

import pytest

from pacs_server.dicom.bulk_syntax import MEDIA_TYPES, OLD_NAMES, syntax_of
from pacs_server.web.dicomweb.media_types import (
    compressed_media_types,
    media_type_of_frames,
    transfer_syntaxes_of,
)

# The rows of both tables for images, and of the latter for video: the last parts of the UIDs below 1.2.840.10008.1.2,
# the one of optionality D (default) first.
TABLES = {
    "application/octet-stream": ["1", "1.98"],
    "image/jpeg": ["4.70", "4.50", "4.51", "4.57"],
    "image/dicom-rle": ["5"],
    "application/x-deflate": ["8.1"],
    "image/jls": ["4.80", "4.81"],
    "image/jp2": ["4.90", "4.91"],
    "image/jpx": ["4.92", "4.93"],
    "image/jphc": ["4.201", "4.202", "4.203"],
    "image/jxl": ["4.110", "4.111", "4.112"],
    "video/mpeg": ["4.100", "4.100.1", "4.101", "4.101.1"],
    "video/mp4": ["4.102", "4.102.1", "4.103", "4.103.1", "4.104", "4.104.1", "4.105", "4.105.1", "4.106", "4.106.1"],
    # The table writes video/H265; the case of a media type does not count (RFC 2045 5.1).
    "video/h265": ["4.107", "4.108"],
}


def uids(ends: list[str]) -> tuple[str, ...]:
    return tuple(f"1.2.840.10008.1.2.{end}" for end in ends)


@pytest.mark.parametrize("media_type", TABLES)
def test_a_media_type_has_the_transfer_syntaxes_of_the_tables(media_type: str) -> None:
    expected = uids(TABLES[media_type])
    assert transfer_syntaxes_of(media_type) == expected
    assert [media_type_of_frames(uid) for uid in expected] == [media_type] * len(expected)


def test_there_are_no_others() -> None:
    compressed = [media_type for media_type in TABLES if media_type != "application/octet-stream"]
    assert sorted(compressed_media_types()) == sorted(compressed)
    # Bulk data beside metadata may have the same ones, and what they were called before.
    assert sorted(MEDIA_TYPES) == sorted([*compressed, *OLD_NAMES])
    assert set(OLD_NAMES.values()) <= set(compressed)


@pytest.mark.parametrize("media_type", [each for each in TABLES if each != "application/octet-stream"])
def test_the_default_counts_for_bulk_data_that_says_nothing(media_type: str) -> None:
    # PS3.18 8.7.3: the default of the table, if there is no parameter transfer-syntax.
    assert syntax_of(media_type, b"") == uids(TABLES[media_type])[0]


@pytest.mark.parametrize(("old", "media_type"), OLD_NAMES.items())
def test_old_names_mean_the_same(old: str, media_type: str) -> None:
    assert syntax_of(old, b"") == syntax_of(media_type, b"")
