"""Tags that more than one module needs, and functions on tags (PS3.5 7, PS3.6)."""

SPECIFIC_CHARACTER_SET = 0x00080005
QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054
INSTANCE_AVAILABILITY = 0x00080056
RETRIEVE_URL = 0x00081190
FAILED_SOP_INSTANCE_UID_LIST = 0x00080058
TIMEZONE_OFFSET_FROM_UTC = 0x00080201
BITS_ALLOCATED = 0x00280100
PIXEL_REPRESENTATION = 0x00280103
PIXEL_DATA = 0x7FE00010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

UNDEFINED_LENGTH = 0xFFFFFFFF
"""The length field of a value that ends with a delimiter (PS3.5 7.5)."""


def tag_text(tag: int) -> str:
    """A tag as people write it: (0008,0005)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def is_private_creator(tag: int) -> bool:
    """Whether the attribute is a Private Creator, which reserves a block of private attributes (PS3.5 7.8.1)."""
    return bool(tag >> 16 & 1) and 0x10 <= tag & 0xFFFF <= 0xFF
