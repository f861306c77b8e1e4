"""Whatever stands in a file or the environment: it loads, or one ConfigError of one line says why not."""

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pacs_server.config import Config, PeerRule, RemoteAEConfig
from pacs_server.config.disk import check_filesystem
from pacs_server.config.load import load
from pacs_server.config.sections.polling import PollingConfig, PrefetchConfig
from pacs_server.errors import ConfigError

# The settings at the top that are lists, with what an entry may hold.
LISTS = {
    "remote_aes": [*RemoteAEConfig.model_fields, "tsl"],
    "polling": [*PollingConfig.model_fields, "evry"],
    "prefetch": [*PrefetchConfig.model_fields, "from"],
}
SECTIONS = {
    name: list(type(getattr(Config(), name)).model_fields)
    for name in Config.model_fields
    if name not in (*LISTS, "source", "origins", "secret_files")
}
VARIABLES = [f"PACS_SERVER__{name}__{key}".upper() for name, keys in SECTIONS.items() for key in keys]

# Text made of YAML's own signs gets further than any text.
yaml_like = st.lists(
    st.sampled_from(
        [*"[]{}:,-?*&!|>%@`'\"#\n\t \\", "\n  ", ": ", "- ", "---\n", "!!int ", "\\x", "&a ", "*a", "<<", "1"]
    )
    | st.sampled_from(["server", "port", "remote_aes", "storage", "min_free_space", "%YAML 1.1", "é", "\x85", "~"]),
    max_size=40,
).map("".join)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1GB", "*", "CT1", "debug", "flat", "10.0.0.1", "x.log", "sqlite:///x", "postgresql://h/d"])
    | st.integers(0, 70000)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
peers = st.lists(st.dictionaries(st.sampled_from([*PeerRule.model_fields, "adresses"]), values, max_size=4), max_size=3)
entries = {name: st.lists(st.dictionaries(st.sampled_from(keys), scalars), max_size=3) for name, keys in LISTS.items()}


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A file of the right shape with any values."""
    content: dict[str, object] = {}
    for name in draw(st.lists(st.sampled_from([*SECTIONS, *LISTS, "sever"]), unique=True)):
        keys = st.dictionaries(st.sampled_from([*SECTIONS.get(name, []), "prot"]), values, max_size=3)
        if name == "access_control":
            keys |= st.fixed_dictionaries({"peers": peers})
        content[name] = draw(entries[name] if name in entries else keys | values)
    return yaml.safe_dump(content, allow_unicode=draw(st.booleans()), default_flow_style=draw(st.booleans()))


def loads_or_says_why(content: bytes, environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pacs_server.yaml"
        file.write_bytes(content)
        try:
            config = load(file, environ=environ, overrides={})
            check_filesystem(config)
        except ConfigError as error:
            problem = str(error)
        else:
            problem = ""
            assert config.storage.directory.is_absolute()
        assert problem == "" or problem.isprintable()
        assert len(problem) < 2000


@given(st.binary(max_size=200))
@example(b'"\\UFFFFFFFF"')
@example(b"%YAML 1.99999999999999999999\n---\n")
def test_any_bytes(content: bytes) -> None:
    loads_or_says_why(content, {})


@given(yaml_like)
@example("? \n: \n")
@example("server: &a\n  port: *a")
def test_any_yaml(text: str) -> None:
    loads_or_says_why(text.encode(), {})


@pytest.mark.slow
@given(documents())
def test_any_settings(text: str) -> None:
    loads_or_says_why(text.encode("utf-8", "surrogatepass"), {})


@given(st.dictionaries(st.sampled_from([*VARIABLES, "PACS_SERVER__REMOTE_AES"]), yaml_like | st.text(), max_size=4))
def test_any_environment(environ: dict[str, str]) -> None:
    loads_or_says_why(b"", environ)


@given(st.text(), st.text())
def test_any_variable_name(name: str, value: str) -> None:
    loads_or_says_why(b"", {f"PACS_SERVER__{name}": value, name: value})


@pytest.mark.slow
@given(documents(), st.integers(0, 65535))
def test_the_command_line_always_wins(text: str, port: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pacs_server.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            config = load(file, environ={"PACS_SERVER__SERVER__PORT": "1"}, overrides={"server.port": port})
        except ConfigError:
            return
        assert (config.server.port, config.where("server.port")) == (port, "command line")
