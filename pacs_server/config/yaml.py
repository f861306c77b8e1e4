"""Read YAML text into plain values, with the place of every key. No other module uses the YAML library.

The only exception that this module raises is ConfigError, with one line that names the place.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from pacs_server.errors import ConfigError

_MAX_BYTES: Final = 1_048_576
_MAX_DEPTH: Final = 16
_TAG: Final = "text that begins with ! must stand in quotes (tags are not used here)"
_STAR: Final = "text that begins with * must stand in quotes (aliases are not used here)"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is set, in words, and the directory from which a relative path in that place starts."""

    text: str
    base: Path


@dataclass(slots=True)
class Layer:
    """The settings of one source: values and places by dotted key, and places of nested keys as remote_aes[0].port."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """A SafeLoader that reads plain scalars as YAML 1.2 does, refuses aliases, and limits the depth."""

    # YAML 1.1 reads NO as false, 0104 as 68 and 11:12 as 672. All three may be AE titles or ports.
    yaml_implicit_resolvers = {}  # noqa: RUF012  (add_implicit_resolver fills it, as PyYAML wants)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            # A few nested aliases can expand to gigabytes.
            raise ComposerError(None, None, _STAR, event.start_mark)  # type: ignore[arg-type]
        if self.depth >= _MAX_DEPTH:
            raise ComposerError(None, None, "the nesting is too deep", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?i:true|false)\Z"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]{1,18}\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)
_SCALARS: Final[dict[str, Callable[[str], object]]] = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:bool": lambda text: {"true": True, "false": False}[text.lower()],
    "tag:yaml.org,2002:null": lambda text: None,
}


@dataclass(frozen=True, slots=True)
class YAMLReader:
    """Reads YAML text into plain values and records the place of each value in `layer`."""

    name: str
    base: Path
    layer: Layer
    lines: bool

    def parse(self, text: str, key: str) -> Any:
        """The value in `text`, which belongs to the dotted `key`; None for an empty text. Raises ConfigError."""
        # The errors of PyYAML quote the lines around the place. A line may hold a secret, so no quote is passed on.
        try:
            node = yaml.compose(text, _Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = error.problem or error.context or "cannot be understood"
            if "tag" in problem:
                problem = _TAG
            if error.context == "while scanning an alias":
                problem = _STAR
            if "'\\t'" in problem:
                problem = "a tab stands where only spaces may"
            raise ConfigError(f"{self._at(mark.line if mark else 0)}: not valid YAML: {one_line(problem)}") from None
        except ReaderError as error:
            line = text.count("\n", 0, error.position)
            raise ConfigError(f"{self._at(line)}: not valid YAML: a character that is not allowed") from None
        except (ValueError, OverflowError):
            raise ConfigError(f"{self.name}: not valid YAML: an escape or a version that is out of range") from None
        return None if node is None else self._value(node, key)

    def _value(self, node: yaml.Node, key: str) -> Any:
        if key:
            self.layer.places.setdefault(key, Place(self._at(node.start_mark.line), self.base))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, f"{key}[{number}]") for number, item in enumerate(node.value)]
        try:
            return _SCALARS[node.tag](node.value)
        except (KeyError, ValueError):
            # The value is not quoted: it may be the beginning of a password.
            raise self._error(node, f"{shown_key(key)}: {_TAG}") from None

    def _mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, item in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                raise self._error(name_node, "a key must be plain text")
            name = name_node.value
            dotted = f"{key}.{name}" if key else name
            if name in values:
                raise self._error(name_node, f"{shown_key(dotted)}: is given twice")
            self.layer.places[dotted] = Place(self._at(name_node.start_mark.line), self.base)
            values[name] = self._value(item, dotted)
        return values

    def _error(self, node: yaml.Node, problem: str) -> ConfigError:
        return ConfigError(f"{self._at(node.start_mark.line)}: {problem}")

    def _at(self, line: int) -> str:
        return f"{self.name} line {line + 1}" if self.lines else self.name


def read(path: Path) -> str:
    """The text of a configuration file. Raises ConfigError if the file cannot be read or is not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {_MAX_BYTES} bytes, which is no configuration file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} line {line}: is not UTF-8 text") from error


def shown_key(name: str) -> str:
    """A key from a file, made fit for a message of one line whatever characters it has."""
    return name[:100] if name.isprintable() else repr(name[:100])


def one_line(text: str) -> str:
    """`text` with spaces for line breaks and other control characters, cut to 300 characters."""
    return "".join(char if char.isprintable() else " " for char in text)[:300]


@dataclass(frozen=True, slots=True)
class Outline:
    """Where a value stands in YAML text: first line and column and last line, from 0; what lies behind it is not its.

    `end` is the column after its last character; it is true only for what has a closing bracket or quote.
    """

    kind: Literal["mapping", "sequence", "scalar"]
    is_flow: bool
    line: int
    column: int
    last_line: int
    end: int
    text: str = ""
    members: Mapping[str, "Outline"] = field(default_factory=dict)
    length: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is written where the value would be."""
        return self.kind == "scalar" and self.line == self.last_line and self.column == self.end and not self.text


def outline(text: str) -> Outline | None:
    """Where the values of a YAML text stand that `YAMLReader` has read; None if it holds none."""
    node = yaml.compose(text, _Loader)
    return None if node is None else _outline(node)


def _outline(node: yaml.Node) -> Outline:
    start, end = node.start_mark, node.end_mark
    if isinstance(node, yaml.ScalarNode):
        # A block scalar ends where the next line begins.
        last = end.line - 1 if node.style in ("|", ">") else end.line
        return Outline("scalar", False, start.line, start.column, last, end.column, node.value)
    assert isinstance(node, yaml.CollectionNode)
    is_flow = bool(node.flow_style)
    if isinstance(node, yaml.MappingNode):
        members = {name.value: _outline(item) for name, item in node.value}
        # The mark at the end of a block is that of what follows it, behind empty lines and comments.
        last = end.line if is_flow else max(each.last_line for each in members.values())
        return Outline("mapping", is_flow, start.line, start.column, last, end.column, members=members)
    items = [_outline(item) for item in node.value]
    last = end.line if is_flow else max(each.last_line for each in items)
    return Outline("sequence", is_flow, start.line, start.column, last, end.column, length=len(items))
