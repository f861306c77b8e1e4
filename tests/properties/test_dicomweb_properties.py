"""Whatever a DICOMweb remote answers: it is understood, or refused with the one error."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pacs_server.dicom.json_model import text_of
from pacs_server.errors import RemoteError
from pacs_server.scu.dicomweb.client import Document
from pacs_server.scu.dicomweb.qido import _matches
from pacs_server.scu.dicomweb.statuses import pause_of
from pacs_server.scu.dicomweb.store_answer import read_answer
from pacs_server.scu.sending import Answer

TAGS = ("00081198", "00081199", "0008119A", "00081155", "00081196", "00081197", "0020000D", "00100010", "x")
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("1.4")
# Things that look like DICOM JSON, and are wrong somewhere.
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TAGS) | st.text(max_size=8), inner, max_size=4)
        | st.fixed_dictionaries({"vr": st.sampled_from(("SQ", "UI", "US", "PN", "??")) | inner, "Value": inner})
        | st.fixed_dictionaries({"vr": st.just("SQ"), "Value": st.lists(inner, max_size=3)})
    ),
    max_leaves=12,
)
kinds = st.sampled_from(
    (
        "application/dicom+json",
        "application/dicom+xml",
        "text/html",
        "multipart/related; boundary=b",
        "multipart/related; type=multipart/related; boundary=b",
        "",
        ";;;",
    )
)
XML = b'<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ"><Item number="1"/></DicomAttribute></NativeDicomModel>'
bodies = (
    st.binary(max_size=60)
    | documents.map(lambda document: json.dumps(document).encode())
    | st.binary(max_size=30).map(lambda some: XML[:70] + some + XML[70:])
    | st.binary(max_size=30).map(
        lambda some: b"--b\r\nContent-Type: application/dicom+json\r\n\r\n" + some + b"\r\n--b--"
    )
)


class Client:
    """As far as a search needs one."""

    class remote:
        name = "there"


@given(st.sampled_from((200, 202, 400, 409)), kinds, bodies)
def test_any_answer_to_a_store_request(status: int, kind: str, body: bytes) -> None:
    told = read_answer(Document(status, {"content-type": kind}, body))
    answer = told.answer("1.4", "somewhere", alone=True)
    assert answer is None or (isinstance(answer, Answer) and 0 <= answer.status <= 0xFFFF)


@given(documents)
def test_instances_are_found_in_any_document_that_names_them(document: Any) -> None:
    named = {"vr": "UI", "Value": ["1.4"]}
    stored = {"00081155": named, "00081196": document}
    module = {"00081199": {"vr": "SQ", "Value": [stored]}, "x": document}
    answer = read_answer(Document(200, {"content-type": "application/json"}, json.dumps(module).encode()))
    found = answer.answer("1.4", "", alone=False)
    assert found is None or found.is_success


@given(bodies)
def test_any_answer_to_a_search(body: bytes) -> None:
    try:
        matches = _matches(Client(), Document(200, {}, body))  # type: ignore[arg-type]
    except RemoteError:
        return
    for match in matches:
        text_of(match, "0020000D")
        json.dumps(match)


@given(st.text(max_size=40) | st.integers().map(str))
def test_any_wish_to_come_back(text: str) -> None:
    pause = pause_of(text)
    assert pause is None or 0 <= pause <= 3600
