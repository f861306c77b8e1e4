"""The attributes of an instance, from the DICOM JSON Model (PS3.18 F.2), as a tree that a page can show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.datadict import dictionary_description, dictionary_keyword

from pacs_server.dicom.private_elements import creator_of, creators_of, is_creator, name_of

# So many items of a sequence are shown; images of many frames have one for each frame.
MOST_ITEMS: Final = 50
# A longer value is cut, with a way to see all of it.
CUT: Final = 160
# Even longer ones are not put into a page.
MOST_CHARACTERS: Final = 20_000

JSON = Mapping[str, Any]


@dataclass(slots=True)
class Node:
    """An attribute: its tag as people write it, its name, value representation and value.

    A sequence has `items`, each a list of nodes, and says in `hidden` how many more there are. `bulk` is the address of
    a value that is not in the tree. `creator` is whose a private attribute is.
    """

    tag: str
    name: str
    keyword: str
    vr: str
    text: str = ""
    items: list[list["Node"]] = field(default_factory=list)
    hidden: int = 0
    bulk: str = ""
    creator: str = ""
    is_long: bool = False

    def holds(self, words: Sequence[str]) -> bool:
        """Whether all words are in the attribute itself."""
        own = f"{self.tag} {self.name} {self.keyword} {self.vr} {self.creator} {self.text}".lower()
        return all(word in own for word in words)


def tree(data_set: JSON) -> list[Node]:
    """The nodes of a data set, in the order of their tags."""
    creators = creators_of(data_set)
    return [_node(tag, data_set[tag], creators) for tag in sorted(data_set)]


def matching(nodes: Sequence[Node], text: str) -> list[Node]:
    """The nodes that hold all words of a text, and the sequences around them."""
    words = text.lower().split()
    return list(_matching(nodes, words)) if words else list(nodes)


def _matching(nodes: Sequence[Node], words: Sequence[str]) -> Iterator[Node]:
    for node in nodes:
        if node.holds(words):
            yield node
            continue
        items = [found for item in node.items if (found := list(_matching(item, words)))]
        if items:
            yield Node(node.tag, node.name, node.keyword, node.vr, items=items, creator=node.creator)


def _node(tag: str, element: JSON, creators: Mapping[tuple[str, str], str]) -> Node:
    vr = str(element.get("vr", "UN"))
    creator = creator_of(tag, creators)
    name, keyword = _name(tag, creator)
    node = Node(f"({tag[:4]},{tag[4:]})".lower(), name, keyword, vr, creator=creator)
    values = element.get("Value") or []
    if vr == "SQ":
        node.items = [tree(item) for item in values[:MOST_ITEMS]]
        node.hidden = max(0, len(values) - MOST_ITEMS)
        node.text = ""
        return node
    node.bulk = str(element.get("BulkDataURI", ""))
    text = " \\ ".join(map(_text, values)) if values else str(element.get("InlineBinary", ""))
    node.text, node.is_long = text[:MOST_CHARACTERS], len(text) > MOST_CHARACTERS
    return node


def _name(tag: str, creator: str) -> tuple[str, str]:
    if int(tag[3], 16) % 2:
        return "Private Creator" if is_creator(tag) else name_of(tag, creator), ""
    number = int(tag, 16)
    try:
        return dictionary_description(number), dictionary_keyword(number)
    except KeyError:
        return "", ""


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        # A person name (PS3.18 F.2.2).
        return "=".join(str(value.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    return "" if value is None else str(value)
