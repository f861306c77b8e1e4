"""Read the settings from the YAML file, the environment and the command line.

Every failure is a ConfigError with one sentence that names the place, the dotted key and what is wrong.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pacs_server.config.model import Config, place_of, section_of, setting, settings
from pacs_server.config.secrets import is_secret, read_secret_files
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.config.types import Section
from pacs_server.config.yaml import Layer, Place, YAMLReader, one_line, read, shown_key
from pacs_server.errors import ConfigError


def _sections(section: type[Section], prefix: str) -> Iterator[tuple[str, type[Section]]]:
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner is not None:
            yield f"{prefix}{name}", inner
            yield from _sections(inner, f"{prefix}{name}.")


_PREFIX: Final = "PACS_SERVER__"
# Names the configuration file if the command line does not.
FILE_VARIABLE: Final = "PACS_SERVER_CONFIG"
_KEYS: Final = {key: info for key, info in settings() if "." in key}
# The sections by dotted name, with those inside others, such as web.tls.
_SECTIONS: Final = dict(_sections(Config, ""))
# The settings at the top that are lists.
_LISTS: Final = ("remote_aes", "polling", "prefetch")
# Sections that may be a plain true or false, which is their `enabled` then.
_SWITCHES: Final = ("web.share_links",)
_TOP: Final = (*(name for name in _SECTIONS if "." not in name), *_LISTS)


def _variable(key: str) -> str:
    """The environment variable of a dotted key."""
    return _PREFIX + key.replace(".", "__").upper()


_ENVIRONMENT: Final = {_variable(key): key for key in (*_KEYS, *_LISTS)} | {
    _variable(name): f"{name}.enabled" for name in _SWITCHES
}
_EXPECTED: Final = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "is_instance_of": "a path",
    "tuple_type": "a list",
    "mapping_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}
_TEXTUAL: Final = ("string_type", "is_instance_of")


def load(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, object], text: str | None = None
) -> Config:
    """Read the settings. The command line overrides the environment, the environment the file, the file the defaults.

    Without `path`, the variable PACS_SERVER_CONFIG may name the file. `overrides` holds the values from the command
    line by dotted key; None means not given. Relative paths become absolute: paths in the file, and default paths if
    there is a file, start from the directory of the file, all others from the working directory. The disk is not
    checked. With `text`, that counts instead of what the file holds. Raises ConfigError.
    """
    by_variable = environ.get(FILE_VARIABLE) if path is None else None
    path = Path(by_variable) if by_variable else path
    file = _from_file(path, f"environment variable {FILE_VARIABLE}: " if by_variable else "", text)
    merged = Layer()
    for layer in (file, _from_environment(environ), _from_command_line(overrides)):
        _lay_over(merged, layer)
    secret_files = read_secret_files(merged)
    origins = {key: place.text for key, place in merged.places.items()}
    try:
        about = {"source": path, "origins": origins, "secret_files": secret_files}
        config = Config.model_validate({**_nested(merged.values), **about})
    except ValidationError as error:
        raise _explained(error, origins) from None
    default_base = Path.cwd() if path is None else path.absolute().parent
    return _with_absolute_paths(config, {key: place.base for key, place in merged.places.items()}, default_base)


# --- merge the layers ---


def _lay_over(merged: Layer, layer: Layer) -> None:
    for key, other in (("database.path", "database.url"), ("database.url", "database.path")):
        if layer.values.get(key) and other not in layer.values:  # the stronger source decides which database it is
            _forget(merged, other)
    for key in layer.values:
        _forget(merged, key)
    merged.values |= layer.values
    merged.places |= layer.places


def _forget(merged: Layer, key: str) -> None:
    merged.values.pop(key, None)
    for place in [name for name in merged.places if name == key or name.startswith(f"{key}[")]:
        del merged.places[place]


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested


def _with_absolute_paths(config: Config, bases: Mapping[str, Path], default_base: Path) -> Config:
    paths: dict[str, Path] = {}
    for key in _KEYS:
        value = setting(config, key)
        if isinstance(value, Path):
            paths[key] = Path(os.path.abspath(bases.get(key, default_base) / value))
    changed = {name: _with(getattr(config, name), inner) for name, inner in _nested(paths).items()}
    remotes = tuple(
        _with_absolute_secrets(remote, f"remote_aes[{number}].auth", bases)
        for number, remote in enumerate(config.remote_aes)
    )
    return config.model_copy(update={**changed, "remote_aes": remotes})


def _with_absolute_secrets(remote: RemoteAEConfig, place: str, bases: Mapping[str, Path]) -> RemoteAEConfig:
    if remote.auth is None:
        return remote
    paths = {
        key: Path(os.path.abspath(bases.get(f"{place}.{key}", Path.cwd()) / value))
        for key, value in remote.auth
        if isinstance(value, Path)
    }
    return remote.model_copy(update={"auth": remote.auth.model_copy(update=paths)})


def _with(section: Section, paths: Mapping[str, Any]) -> Section:
    """The section with these paths, which may belong to sections inside it."""
    values = {
        name: _with(getattr(section, name), path) if isinstance(path, dict) else path for name, path in paths.items()
    }
    # model_copy would add the names to model_fields_set, as if somebody had set these defaults.
    return section.model_construct(section.model_fields_set, **(dict(section) | values))


# --- the sources ---


def _from_command_line(overrides: Mapping[str, object]) -> Layer:
    place = Place("command line", Path.cwd())
    values = {key: value for key, value in overrides.items() if value is not None}
    return Layer(values, dict.fromkeys(values, place))


def _from_environment(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    for name in sorted(environ):
        if not name.startswith(_PREFIX):
            continue
        place = f"environment variable {shown_key(name)}"
        if name not in _ENVIRONMENT:
            owners = [_variable(key) for key in _keys_named(name.removeprefix(_PREFIX).lower())]
            raise ConfigError(f"{place} is not known{_either(owners) or _suggestion(name, _ENVIRONMENT)}")
        key = _ENVIRONMENT[name]
        layer.places[key] = Place(place, Path.cwd())
        if _takes_text(key):
            layer.values[key] = environ[name]
        else:
            reader = YAMLReader(place, Path.cwd(), layer, lines=False)
            layer.values[key] = reader.parse(environ[name], key)
    return layer


def _takes_text(key: str) -> bool:
    """Whether the value of an environment variable is taken as text, so that it needs no quotes as in YAML."""
    annotation = _KEYS[key].annotation if key in _KEYS else tuple
    # For an optional value, such as `Port | None`, the type of the value decides.
    kind = get_args(annotation)[0] if type(None) in get_args(annotation) else annotation
    kind = getattr(kind, "__origin__", kind)
    return kind not in (int, float, bool, tuple, Mapping)


def _from_file(path: Path | None, named_by: str, text: str | None = None) -> Layer:
    layer = Layer()
    if path is None:
        return layer
    try:
        text = read(path) if text is None else text
    except ConfigError as error:
        raise ConfigError(f"{named_by}{error}") from error
    reader = YAMLReader(str(path), path.absolute().parent, layer, lines=True)
    root = reader.parse(text, "")
    if root is None:
        return layer
    if not isinstance(root, dict):
        raise ConfigError(f"{path}: the file must hold sections such as server: and storage:")
    for name, section in root.items():
        _add_section(layer, name, section)
    return layer


def _add_section(layer: Layer, name: str, section: object) -> None:
    place = layer.places[name].text
    if name not in _TOP:
        raise ConfigError(f"{place}: {shown_key(name)}: is not known{_suggestion_at_top(name)}")
    if section is None:  # all keys of the section are commented out
        return
    if name in _LISTS:
        layer.values[name] = section
        return
    _add_keys(layer, name, section)


def _add_keys(layer: Layer, name: str, section: object) -> None:
    """Take over the keys of a section, and of the sections inside it."""
    place = layer.places[name].text
    if name in _SWITCHES and isinstance(section, bool):
        layer.values[f"{name}.enabled"], layer.places[f"{name}.enabled"] = section, layer.places[name]
        return
    if not isinstance(section, dict):
        value = "the value" if is_secret(name) else _shown(section)
        raise ConfigError(f"{place}: {name}: {value} is not a mapping of keys to values")
    for key, value in section.items():
        dotted = f"{name}.{key}"
        if dotted in _SECTIONS:
            if value is not None:
                _add_keys(layer, dotted, value)
            continue
        if dotted not in _KEYS:
            fields = _SECTIONS[name].model_fields
            hint = _suggestion(key, fields) or _either(_ending_with(key, fields)) or _either(_keys_named(key))
            raise ConfigError(f"{layer.places[dotted].text}: {name}.{shown_key(key)}: is not known{hint}")
        layer.values[dotted] = value


# --- explain what is wrong ---


def _explained(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    # A misspelled key leads to two errors, "not known" and "missing". The first one explains the second one.
    detail = min(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    key = str(detail.get("ctx", {}).get("key") or _dotted(detail["loc"]))
    return ConfigError(f"{place_of(origins, key)}: {shown_key(key)}: {_sentence(detail, key)}")


def _dotted(location: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _sentence(detail: ErrorDetails, key: str) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    value = "the value" if is_secret(key) else _shown(detail["input"])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is not known{_suggestion(str(detail['loc'][-1]), _section_at(detail['loc'][:-1]).model_fields)}"
    if kind == "value_error":
        return one_line(str(context["error"]))
    if "key" in context:  # a check of this package that compares several settings
        return one_line(detail["msg"])
    if detail["input"] is None:
        return "has no value"
    if kind == "too_short" and not isinstance(detail["input"], str):
        return "is empty, and needs at least one entry"
    if kind in _EXPECTED:
        quotes = " (put it in quotes)" if kind in _TEXTUAL and isinstance(detail["input"], int | float) else ""
        return f"{value} is not {_EXPECTED[kind]}{quotes}"
    return f"{value} is not possible: {one_line(_limit(detail))}"


def _section_at(location: Iterable[str | int]) -> type[Section]:
    """The section in which a place lies, such as access_control.peers[0]."""
    section: type[Section] = Config
    for part in location:
        if isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for each in get_args(annotation) if (found := _section_in(each)) is not None), None)


def _limit(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Input should be ")
    return message if message == detail["msg"] else f"it must be {message}"


def _suggestion_at_top(name: str) -> str:
    if name in _KEYS:
        section, _, key = name.partition(".")
        return f" here, write {key}: below {section}:"
    return _either(_keys_named(name)) or _suggestion(name, _TOP)


def _keys_named(key: str) -> list[str]:
    """The dotted keys of all sections that have a key of this name."""
    return [dotted for dotted in _KEYS if dotted.partition(".")[2] == key]


def _ending_with(key: str, known: Iterable[str]) -> list[str]:
    """The names that end with this word, such as metrics_port with port."""
    return [name for name in known if name.endswith(f"_{key}")]


def _either(names: list[str]) -> str:
    return f", did you mean {' or '.join(names)}?" if names else ""


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return _either(close)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value if len(str(value)) <= 60 else f"{str(value)[:60]}...")
