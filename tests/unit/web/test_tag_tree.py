"""Attributes of the DICOM JSON Model as a tree."""

from pacs_server.web.pages.tag_tree import MOST_ITEMS, matching, tree

DATA_SET = {
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Roe^Jane", "Ideographic": "山田"}]},
    "00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]},
    "00081140": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.3"]}}] * (MOST_ITEMS + 2)},
    "00290010": {"vr": "LO", "Value": ["SIEMENS CSA HEADER"]},
    "00290011": {"vr": "LO", "Value": ["ACME"]},
    "00291008": {"vr": "CS", "Value": ["IMAGE NUM 4"]},
    "00291108": {"vr": "UN", "InlineBinary": "AAEC"},
    "7FE00010": {"vr": "OW", "BulkDataURI": "http://127.0.0.1/bulk"},
}


def test_nodes_have_names_texts_and_creators() -> None:
    nodes = {node.tag: node for node in tree(DATA_SET)}
    assert list(nodes) == sorted(nodes)
    assert (nodes["(0010,0010)"].name, nodes["(0010,0010)"].text) == ("Patient's Name", "Roe^Jane=山田")
    assert nodes["(0008,0008)"].text == "ORIGINAL \\  \\ AXIAL"
    assert (nodes["(0029,1008)"].creator, nodes["(0029,1008)"].name) == ("SIEMENS CSA HEADER", "CSA Image Header Type")
    assert (nodes["(0029,1108)"].creator, nodes["(0029,1108)"].text) == ("ACME", "AAEC")
    assert nodes["(0029,0010)"].creator == ""
    assert nodes["(7fe0,0010)"].bulk == "http://127.0.0.1/bulk"


def test_many_items_are_not_all_shown() -> None:
    (sequence,) = tree({"00081140": DATA_SET["00081140"]})
    assert (len(sequence.items), sequence.hidden) == (MOST_ITEMS, 2)


def test_what_holds_all_words_is_found_with_what_is_around_it() -> None:
    nodes = tree(DATA_SET)
    assert [node.tag for node in matching(nodes, "roe patient")] == ["(0010,0010)"]
    assert [node.tag for node in matching(nodes, "csa 1008")] == ["(0029,1008)"]
    (sequence,) = matching(nodes, "1.2.3")
    assert (sequence.tag, sequence.items[0][0].tag) == ("(0008,1140)", "(0008,1155)")
    assert matching(nodes, "nothing like it") == []
    assert len(matching(nodes, " ")) == len(nodes)
