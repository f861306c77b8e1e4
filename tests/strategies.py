"""Hypothesis strategies for attribute values and the keys that ask for them, and identifiers made of keys."""

import json

import datasets
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import ImplicitVRLittleEndian

# What SQL or pattern languages might stumble over, and letters from several scripts; no blanks at the ends.
_CHARACTERS = "%_*?/!^=.-[]ab AB1Ä\u00e4\u00df\u6f22\u3042\u30ac\U0001f600"


def _trimmed(text: str) -> str:
    return text.strip()


def text_values(characters: str = _CHARACTERS, max_size: int = 8) -> st.SearchStrategy[str]:
    """One stored value of a text attribute, often empty or short, so that keys have a chance to match."""
    return st.text(alphabet=characters, max_size=max_size).map(_trimmed)


def several(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Several values joined by backslash."""
    return st.lists(values.filter(lambda value: "\\" not in value), max_size=3).map("\\".join)


def person_names() -> st.SearchStrategy[str]:
    """A stored name of one to three component groups."""
    component = st.text(alphabet="abABÄ\u00e4\u00df%_?\u6f22\u3042\u30ac ", max_size=4)
    group = st.lists(component, max_size=3).map("^".join)
    whole = st.sampled_from(["Aa^b=\u6f22^\u5b57=\u3042^\u3044", "=\u6f22", "Ab==\u3042", "b=Aa"])
    return whole | st.lists(group, max_size=3).map("=".join).map(_trimmed)


def dates() -> st.SearchStrategy[str]:
    """A stored date: mostly valid and close to others, at times in the old form, empty or rubbish."""
    valid = st.dates().map(lambda date: date.strftime("%Y%m%d"))
    near = st.integers(20200125, 20200131).map(str) | st.integers(20200201, 20200207).map(str)
    dotted = near.map(lambda date: f"{date[:4]}.{date[4:6]}.{date[6:]}")
    odd = st.sampled_from(["", "2020", "20200199", "202001260", "2020.0126", "2020-01-26", "x", "20200126 "])
    return near | near | dotted | valid.filter(lambda date: len(date) == 8) | odd.map(_trimmed)


def times() -> st.SearchStrategy[str]:
    """A stored time: whole or short, at times in the old form, empty or rubbish."""
    whole = st.times().map(lambda time: time.strftime("%H%M%S.%f"))
    cut = st.tuples(whole, st.sampled_from([2, 4, 6, 8, 13])).map(lambda pair: pair[0][: pair[1]])
    near = st.sampled_from(["10", "1030", "103000", "103000.5", "10:30:00", "11", "235960"])
    return near | cut | st.sampled_from(["", "24", "1", "rubbish"])


def ranges(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A key on dates or times: single, closed or open at one end; not all of them are valid."""
    return st.one_of(
        values,
        st.tuples(values, values).map(lambda pair: "-".join(sorted(pair))),
        values.map("{}-".format),
        values.map("-{}".format),
    )


def sequences() -> st.SearchStrategy[str]:
    """A stored sequence as DICOM JSON, of items with two short text attributes."""
    value = st.sampled_from(["A", "B", "*", "%"])
    elements = st.fixed_dictionaries({}, optional={"00400009": value, "00401001": value})
    item = elements.map(lambda found: {tag: {"vr": "SH", "Value": [text]} for tag, text in found.items()})
    return st.lists(item, max_size=3).map(lambda items: json.dumps(items) if items else "")


def uids() -> st.SearchStrategy[str]:
    """One of a few UIDs."""
    return st.integers(1, 6).map("1.2.{}".format)


def identifier(level: str, **keys: object) -> Dataset:
    """An identifier with keys by keyword."""
    data_set = Dataset()
    data_set.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        # Keys may hold what values may not.
        data_set.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE))
    return data_set


def encoded(data_set: Dataset, transfer_syntax_uid: str = ImplicitVRLittleEndian) -> bytes:
    """The bytes of a data set, as peers send their keys."""
    return datasets.encoded(data_set, transfer_syntax_uid)
