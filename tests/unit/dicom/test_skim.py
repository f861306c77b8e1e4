"""Where elements begin, against the general way to step over them."""

from contextlib import suppress
from pathlib import Path

import datasets
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pacs_server.dicom.encoding import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Encoding, encoding_of
from pacs_server.dicom.skim import Cut, Skimmer
from pacs_server.errors import InvalidInstance

FILES = [path for path in datasets.pydicom_test_files() if "deflated" not in path.name][::4]


def by_steps(data: bytes, encoding: Encoding, until: tuple[int, ...] = ()) -> dict[int, int]:
    skimmer = Skimmer(data, encoding)
    found, at = {}, 0
    with suppress(Cut, InvalidInstance):
        for element in skimmer.elements(0, len(data)):
            found[element.tag] = at
            if element.tag in until:
                break
            at = skimmer.end(element)
    return found


def heads(data: bytes, encoding: Encoding, until: tuple[int, ...] = ()) -> dict[int, int]:
    skimmer = Skimmer(data, encoding)
    found: dict[int, int] = {}
    with suppress(Cut, InvalidInstance):
        skimmer.heads(0, len(data), found, until)
    assert all(skimmer.element(at).tag == tag for tag, at in found.items())
    return found


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_the_heads_of_every_data_set(path: Path) -> None:
    syntax, data = datasets.data_set_bytes(path)
    for cut in (len(data), 5000, 1000, 333):
        for until in ((), (0x7FE00010,), (0x00280010,)):
            assert heads(data[:cut], encoding_of(syntax), until) == by_steps(data[:cut], encoding_of(syntax), until)


@given(st.binary(max_size=200), st.sampled_from([EXPLICIT_LE, EXPLICIT_BE, IMPLICIT_LE]))
# An item whose length looks like a VR, the end of an item, an element beyond the end.
@example(b"\x08\0\x05\0CS\0\0\xfe\xff\0\xe0UI\2\0", EXPLICIT_LE)
@example(b"\x08\0\x05\0CS\0\0\xfe\xff\x0d\xe0\0\0\0\0\x08\0\x06\0CS\0\0", EXPLICIT_LE)
@example(b"\x08\0\x05\0CS\0\1\x08\0\x06\0CS\0\0", EXPLICIT_LE)
@example(b"\x08\0\x05\0\0\0\0\0\x08\0\x06\0\xff\xff\xff\xff", IMPLICIT_LE)
def test_the_heads_of_anything(data: bytes, encoding: Encoding) -> None:
    assert heads(data, encoding) == by_steps(data, encoding)


def test_too_many_elements_are_noticed() -> None:
    data = b"\x08\0\x05\0CS\0\0" * 100
    skimmer = Skimmer(data, EXPLICIT_LE, max_elements=99)
    with pytest.raises(InvalidInstance):
        skimmer.heads(0, len(data), {})
