"""Settings: defaults, the file with its line numbers, precedence, and the example file."""

import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pacs_server.config import (
    Config,
    DatabaseConfig,
    DeletionRule,
    PeerRule,
    RemoteAEConfig,
    RemoteAuthConfig,
    RoutingRule,
    ServerConfig,
    StorageConfig,
)
from pacs_server.config.cautions import open_to_everyone
from pacs_server.config.load import load
from pacs_server.config.model import changed, changed_needing_restart, setting, settings, takes_effect
from pacs_server.config.sections.polling import PollingConfig, PrefetchConfig
from pacs_server.config.types import TakesEffect
from pacs_server.errors import ConfigError
from pacs_server.services.routing import compile_rules

EXAMPLE = Path(__file__).parents[3] / "pacs_server.yaml.example"
NEED_RESTART = {key for key, field in settings() if takes_effect(field) is TakesEffect.AT_RESTART}
# A key of the peer in the example file, which is commented out as a whole.
PEER_LINE = r"  #(?:- |  )(?P<key>[a-z0-9_]+): .*"
# A key of the section in which a DICOMweb remote of the example file says how to log in, commented out as well.
AUTH_LINE = r"    #  (?P<key>[a-z0-9_]+): [^ ].*"
LISTED = {
    "access_control.peers": PeerRule,
    "routing.rules": RoutingRule,
    "routing.delete": DeletionRule,
    "remote_aes": RemoteAEConfig,
    "remote_aes.auth": RemoteAuthConfig,
    "polling": PollingConfig,
    "prefetch": PrefetchConfig,
}
# The settings at the top that are lists.
TOP = {"remote_aes", "polling", "prefetch"}
# What an entry of each of these lists has to have.
NEEDED: dict[str, dict[str, object]] = {
    "access_control.peers": {"ae_title": "A"},
    "routing.rules": {"name": "a", "label": "x", "forward": ["A"]},
    "routing.delete": {"name": "a", "committed_by": ["A"], "after": 1},
    "remote_aes": {"ae_title": "A", "host": "h", "port": 1},
    "remote_aes.auth": {},
    "polling": {"remote": "A", "every": 1},
    "prefetch": {"from": ["A"]},
}

Load = Callable[..., Config]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads `pacs_server.yaml` of the given content, in a working directory apart from it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def load_text(text: str | bytes, environ: dict[str, str] | None = None, **overrides: object) -> Config:
        file = tmp_path / "pacs_server.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        dotted = {key.replace("__", "."): value for key, value in overrides.items()}
        return load(file, environ=environ or {}, overrides=dotted)

    return load_text


TWO = "remote_aes:\n- {ae_title: A, host: h, port: 1}\n- {ae_title: B, host: h, port: 1, %s}"
WEB = "remote_aes:\n- kind: dicomweb\n  name: w\n  url: https://h/dicom-web\n  %s"
REMOTES_WITHOUT_SENSE = [
    ("remote_aes:\n- {host: h, port: 1}", "line 2: remote_aes[0].ae_title: is missing"),
    (
        "remote_aes:\n- {kind: dicomweb, url: 'https://h'}",
        "line 2: remote_aes[0].name: is missing, kind dicomweb needs",
    ),
    ("remote_aes:\n- {kind: dicomweb, name: w}", "line 2: remote_aes[0].url: is missing, kind dicomweb needs it"),
    (TWO % "name: A", "line 3: remote_aes[1].name: A is already defined by remote_aes[0]"),
    (TWO % "backups: [A, C]", "line 3: remote_aes[1].backups[1]: C is not the name of a remote"),
    (TWO % "backups: [B]", "line 3: remote_aes[1].backups[0]: B cannot be its own backup"),
    (TWO % "windows: ['22-6']", "line 3: remote_aes[1].windows[0]: '22-6' is not a window such as 22:00-06:00"),
    (TWO % "transfer_syntaxes: [JPEG3000]", "remote_aes[1].transfer_syntaxes[0]: 'JPEG3000' is not a transfer syntax"),
    (TWO % "rate: 5XB", "line 3: remote_aes[1].rate: '5XB' is not a size such as 500MB"),
    (TWO % "url: https://h", "line 3: remote_aes[1].url: is not for kind dimse"),
    (TWO % "priority: soon", "line 3: remote_aes[1].priority: 'soon' is not possible: it must be 'urgent', 'high', 'm"),
    (WEB % "port: 1", "line 5: remote_aes[0].port: is not for kind dicomweb"),
    (WEB % "auth: {}", "line 5: remote_aes[0].auth: names no way to log in"),
    (
        WEB % "auth:\n    bearer_fil: x",
        "line 6: remote_aes[0].auth.bearer_fil: is not known, did you mean bearer_file?",
    ),
    (WEB % "auth: {user: u}", "line 5: remote_aes[0].auth.password_file: is needed with user"),
    (
        WEB % "auth: {bearer_file: a, header: h, key_file: k}",
        "remote_aes[0].auth.header: is a second way to log in",
    ),
    (WEB % "auth: {user: 'a:b', password_file: p}", "line 5: remote_aes[0].auth.user: cannot have a colon"),
    (
        WEB % "auth: {header: 'A: b', key_file: k}",
        "line 5: remote_aes[0].auth.header: 'A: b' is no header for an API k",
    ),
    (
        WEB % "auth: {header: Content-Length, key_file: k}",
        "line 5: remote_aes[0].auth.header: 'Content-Length' is no h",
    ),
    (WEB % "auth: {key_path: k}", "remote_aes[0].auth.cert_path: is needed with key_path"),
    (
        "remote_aes:\n- {kind: dicomweb, name: w, url: 'ftp://h'}",
        "remote_aes[0].url: 'ftp://h' is not an address",
    ),
]


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def test_without_a_file_everything_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(None, environ={"HOME": "/x"}, overrides={})
    assert config.server == ServerConfig()
    assert config.source is None
    assert config.storage.directory == tmp_path / "archive"
    assert config.database.sqlalchemy_url == f"sqlite:///{tmp_path}/pacs.db"
    assert config.where("server.port") == "default"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "server:\nremote_aes:\n", b"\xef\xbb\xbf"])
def test_a_file_that_sets_nothing_is_all_defaults(load_text: Load, text: str) -> None:
    config = load_text(text)
    assert config.server == ServerConfig()
    assert config.remote_aes == ()


def test_defaults_of_the_product() -> None:
    config = Config()
    assert (config.server.ae_title, config.server.host, config.server.port) == ("PACS_SERVER", "127.0.0.1", 11112)
    assert (config.server.max_associations, config.server.idle_timeout) == (50, 60)
    assert (config.server.max_pdu_size, config.server.shutdown_timeout) == (131072, 30)
    assert config.storage.min_free_space == 10**9
    assert config.access_control.allowed_ae_titles == ("*",)
    assert (config.monitoring.host, config.monitoring.metrics_port) == ("127.0.0.1", 9090)
    assert config.logging.file is None
    assert (config.worklist.folder, config.worklist.folder_interval) == (None, 2)
    assert (config.worklist.hl7_host, config.worklist.hl7_port) == ("127.0.0.1", None)
    assert (config.worklist.only_own_station, config.worklist.discontinued_returns) == (False, True)
    commitment = config.commitment
    assert (commitment.retry_first, commitment.retry_max, commitment.give_up_after) == (10, 3600, 259200)
    assert commitment.same_association


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:\n  port: 70000", "line 2: server.port: 70000 is not a port (0 to 65535)"),
        ("server:\n  port: '11112'", "line 2: server.port: '11112' is not a whole number"),
        ("server:\n  port: 1.5", "line 2: server.port: 1.5 is not a whole number"),
        ("server:\n  port: true", "line 2: server.port: true is not a whole number"),
        ("server:\n  port:", "line 2: server.port: has no value"),
        ("server:\n\n  prot: 1", "line 3: server.prot: is not known, did you mean port?"),
        ("sever:\n  port: 1", "line 1: sever: is not known, did you mean server?"),
        ("port: 11112", "line 1: port: is not known, did you mean server.port or tls.port or web.port?"),
        ("monitoring: {port: 1}", "line 1: monitoring.port: is not known, did you mean metrics_port?"),
        ("level: info", "line 1: level: is not known, did you mean logging.level?"),
        ("server.port: 11112", "line 1: server.port: is not known here, write port: below server:"),
        ("server: {directory: x}", "server.directory: is not known, did you mean storage.directory or audit.directory"),
        ("source: x", "line 1: source: is not known"),
        ("server: 3", "line 1: server: 3 is not a mapping of keys to values"),
        ("server: [a]", "line 1: server: a list is not a mapping of keys to values"),
        ("server:\n port: 1\n port: 2", "line 3: server.port: is given twice"),
        ("server:\n  ae_title: 12", "line 2: server.ae_title: 12 is not text (put it in quotes)"),
        ("server:\n  max_pdu_size: 0", "greater than or equal to 4096"),
        ("server:\n  idle_timeout: 0", "greater than 0"),
        ("server:\n  idle_timeout: 1.0e999", "line 2: server.idle_timeout: inf is not a finite number"),
        ("tls:\n  enabled: yes", "line 2: tls.enabled: 'yes' is not true or false"),
        ("tls:\n  enabled: 1", "line 2: tls.enabled: 1 is not true or false"),
        ("storage:\n  naming: deep", "must be 'hierarchical', 'date_hierarchical' or 'flat'"),
        ("storage:\n  min_free_space: 1 GX", "'1 GX' is not a size such as 500MB, 1GB or 2GiB"),
        ("storage:\n  directory: ''", "line 2: storage.directory: a path may not be empty"),
        ("storage:\n  directory: 7", "line 2: storage.directory: 7 is not a path (put it in quotes)"),
        ('storage:\n  directory: "a\\0b"', "line 2: storage.directory: a path must be printable text"),
        ("database: {url: 'mysql://u:geheim@x'}", "database.url: the address must begin with postgresql://"),
        ("database:\n  path: a\n  url: sqlite:///b", "line 3: database.url: database.path is given too"),
        ("database: {path: 'a?b'}", "database.path: the path may not hold a question mark"),
        ("remote_aes:\n  - ae_title: A\n    host: h\n", "line 2: remote_aes[0].port: is missing"),
        ("remote_aes:\n  - ae_title: A\n    host: h\n    prt: 1\n", "line 4: remote_aes[0].prt: is not known, did"),
        ("remote_aes: {ae_title: A}", "line 1: remote_aes: a mapping is not a list"),
        ("remote_aes:\n  - 1", "line 2: remote_aes[0]: 1 is not a mapping"),
        ("remote_aes: [{ae_title: A, host: h, port: 0}]", "remote_aes[0].port: 0 is not a port (1 to 65535)"),
        (
            "remote_aes:\n - {ae_title: A, host: h, port: 1}\n - {ae_title: ' A', host: i, port: 2}",
            "line 3: remote_aes[1].ae_title: A is already defined by remote_aes[0]",
        ),
        *REMOTES_WITHOUT_SENSE,
        ("access_control: {allowed_ae_titles: '*'}", "'*' is not a list"),
        (
            "access_control:\n  peers:\n  - ae_title: A\n  - ae_title: B\n    addresses:\n    - 10.0.0.300",
            "line 6: access_control.peers[1].addresses[0]: '10.0.0.300' is not an address or network such as 10.1",
        ),
        ("access_control: {peers: [{ae_title: A, addresses: [5]}]}", "peers[0].addresses[0]: '5' is not an address"),
        ("access_control: {peers: [{ae_title: A, addresses: 10.0.0.1}]}", ".addresses: '10.0.0.1' is not a list"),
        (
            "access_control:\n  peers:\n  - ae_title: A\n    adresses: []",
            "line 4: access_control.peers[0].adresses: is not known, did you mean addresses?",
        ),
        ("access_control:\n  peers:\n  - allow: []", "line 3: access_control.peers[0].ae_title: is missing"),
        ("access_control: {peers: [CT1]}", "access_control.peers[0]: 'CT1' is not a mapping"),
        ("access_control: {peers: {ae_title: A}}", "access_control.peers: a mapping is not a list"),
        ("access_control: {peers: [{ae_title: A, allow: [fnid]}]}", "peers[0].allow[0]: 'fnid' is not possible: it"),
        ("worklist:\n  hl7_port: 70000", "line 2: worklist.hl7_port: 70000 is not a port (0 to 65535)"),
        ("worklist:\n  hl7_port: '1'", "line 2: worklist.hl7_port: '1' is not a whole number"),
        ("worklist: {hl7_port: 11112}", "line 1: worklist.hl7_port: 11112 is the port of server.port too, choose"),
        ("server:\n  port: 9090", "line 2: server.port: 9090 is the port of monitoring.metrics_port too, choose"),
        ("worklist: {hl7_port: 9090, hl7_host: 0.0.0.0}", "9090 is the port of monitoring.metrics_port too"),
        ("worklist: {folder_interval: 0}", "greater than 0"),
        ("commitment: {give_up_after: -1}", "greater than 0"),
        ("logging:\n\tlevel: info", "line 2: not valid YAML: a tab stands where only spaces may"),
        ("server:\n  port: [1", "line 2: not valid YAML: "),
        ("a: 1\n---\nb: 1", "line 2: not valid YAML: "),
        ("a: \x01", "line 1: not valid YAML: a character that is not allowed"),
        (b"a: 1\nb: \xff\n", "line 2: is not UTF-8 text"),
        ('"\\UFFFFFFFF": 1', "not valid YAML: an escape"),
        ("server: &a {port: 1}\ntls: *a", "line 2: not valid YAML: text that begins with * must stand in quotes"),
        ("access_control: {allowed_ae_titles: [*]}", "line 1: not valid YAML: text that begins with * must stand"),
        ("server: " + "[" * 3000, "line 1: not valid YAML: the nesting is too deep"),
        ("server: {port: !!python/name:os.system x}", "server.port: text that begins with ! must stand in quotes"),
        ("server: {<<: {port: 1}}", "server.<<: is not known"),
        ("? [a]\n: 1", "line 1: a key must be plain text"),
        ("- a", "the file must hold sections such as server: and storage:"),
        ("#" * 1_048_577, "is larger than 1048576 bytes"),
    ],
)
def test_an_error_names_file_line_and_key(load_text: Load, tmp_path: Path, text: str | bytes, message: str) -> None:
    error = error_of(lambda: load_text(text))
    assert message in error
    assert error.startswith(str(tmp_path / "pacs_server.yaml"))
    assert error.isprintable()


def test_a_time_that_is_too_long_is_told_in_words(load_text: Load) -> None:
    with pytest.raises(ConfigError, match=r"line 1: polling\[0\]\.window: '11y' is longer than ten years"):
        load_text("polling: [{remote: A, every: 5m, window: 11y}]")
    remote = "remote_aes: [{ae_title: A, host: a, port: 104}]\n"
    assert load_text(f"{remote}polling: [{{remote: A, every: 5m, window: 10y}}]").polling[0].window == 315_360_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prefetch: [{from: []}]", "prefetch[0].from: is empty, and needs at least one entry"),
        ("prefetch: [{from: A, modalities: ct}]", "prefetch[0].modalities: 'ct' is not a modality such as CT"),
        (
            "prefetch: [{from: A, modalities: [CT, any]}]",
            "modalities: 'any' is not a modality such as CT; same and any",
        ),
        ("prefetch: [{from: A, modalities: []}]", "modalities: write same, any, or a list of modalities such as [CT"),
        ("prefetch: [{from: A, modalities: {}}]", "modalities: write same, any, or a list of modalities such as [CT"),
        ("prefetch: [{from: A, body_parts: []}]", "body_parts: write any, or a list of body parts such as [CHEST"),
        (
            "polling: [{remote: A, every: 5m, query: [a]}]",
            "polling[0].query: a list is not a mapping of keys to values",
        ),
        (
            "polling: [{remote: A, every: 5m, query: {ModalitiesInStudy: [CT, MR]}}]",
            r"query.ModalitiesInStudy: write several values as one text, with a backslash between them, such as CT\MR",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_told_in_words(load_text: Load, text: str, message: str) -> None:
    assert message in error_of(lambda: load_text(text))


def test_one_modality_or_body_part_needs_no_list(load_text: Load) -> None:
    remote = "remote_aes: [{ae_title: A, host: a, port: 104}]"
    wanted = "[{from: A, modalities: CT, body_parts: CHEST}, {from: A, modalities: [any], body_parts: [any]}]"
    rules = load_text(f"{remote}\nprefetch: {wanted}").prefetch
    assert [(each.modalities, each.body_parts) for each in rules] == [(("CT",), ("CHEST",)), ("any", "any")]


def test_ports_that_do_not_meet(load_text: Load) -> None:
    load_text("server: {port: 9090}\nmonitoring: {enabled: false}")
    load_text("server: {port: 9090}\nmonitoring: {host: 127.0.0.2}")
    load_text("server: {port: 0}\nmonitoring: {metrics_port: 0}\nworklist: {hl7_port: 0}")


def test_no_error_shows_the_password(load_text: Load) -> None:
    for url in ("mysql://u:geheim@x", "postgresql://u:geheim@x\\n"):
        assert "geheim" not in error_of(lambda url=url: load_text(f'database: {{path: x, url: "{url}"}}'))


def test_yaml_1_1_surprises_are_off(load_text: Load) -> None:
    config = load_text("server: {ae_title: NO, port: 0104, host: 12:30}")
    assert (config.server.ae_title, config.server.port, config.server.host) == ("NO", 104, "12:30")


def test_unreadable_files(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    for file, reason in ((missing, "No such file"), (tmp_path, "Is a directory")):
        error = error_of(lambda file=file: load(file, environ={}, overrides={}))
        assert error.startswith(f"{file}: cannot be read: {reason}")


def test_precedence(load_text: Load) -> None:
    text = "server: {port: 1, host: file}"
    environ = {"PACS_SERVER__SERVER__PORT": "2", "PACS_SERVER__SERVER__HOST": "env", "PACS_SERVER_X": "no"}
    config = load_text(text, environ, server__port=3, server__host=None)
    assert (config.server.port, config.server.host) == (3, "env")
    assert config.where("server.port") == "command line"
    assert config.where("server.host") == "environment variable PACS_SERVER__SERVER__HOST"


def test_where_names_the_line(load_text: Load, tmp_path: Path) -> None:
    config = load_text("# x\nstorage:\n  directory: a\nremote_aes:\n- {ae_title: A, host: h,\n   port: 1}\n")
    file = tmp_path / "pacs_server.yaml"
    assert config.where("storage.directory") == f"{file} line 3"
    assert config.where("remote_aes[0].port") == f"{file} line 6"
    assert str(config.error("storage.directory", "is odd")) == f"{file} line 3: storage.directory: is odd"


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("SERVER__AE_TITLE", "123", "server.ae_title", "123"),
        ("SERVER__CHECK_CALLED_AE_TITLE", "true", "server.check_called_ae_title", True),
        ("SERVER__IDLE_TIMEOUT", "0.5", "server.idle_timeout", 0.5),
        ("STORAGE__MIN_FREE_SPACE", "2GiB", "storage.min_free_space", 2**31),
        ("STORAGE__MIN_FREE_SPACE", "12", "storage.min_free_space", 12),
        ("LOGGING__FILE", "", "logging.file", None),
        ("DATABASE__URL", "", "database.url", None),
        ("WORKLIST__HL7_PORT", "2575", "worklist.hl7_port", 2575),
        ("WORKLIST__HL7_PORT", "null", "worklist.hl7_port", None),
        ("WORKLIST__FOLDER", "", "worklist.folder", None),
        ("COMMITMENT__RETRY_FIRST", "0.5", "commitment.retry_first", 0.5),
        ("ACCESS_CONTROL__ALLOWED_AE_TITLES", "[CT*, 'MR?']", "access_control.allowed_ae_titles", ("CT*", "MR?")),
        (
            "ACCESS_CONTROL__PEERS",
            "[{ae_title: A, addresses: [10.1.2.3/16]}, {ae_title: A, allow: [echo]}]",
            "access_control.peers",
            (PeerRule(ae_title="A", addresses=(ip_network("10.1.0.0/16"),)), PeerRule(ae_title="A", allow=("echo",))),
        ),
        (
            "REMOTE_AES",
            "[{ae_title: W, host: h, port: 104}]",
            "remote_aes",
            (RemoteAEConfig(ae_title="W", host="h", port=104),),
        ),
    ],
)
def test_environment(load_text: Load, name: str, value: str, key: str, expected: object) -> None:
    config = load_text("logging: {file: x.log}", {f"PACS_SERVER__{name}": value})
    assert setting(config, key) == expected
    assert config.where(key) == f"environment variable PACS_SERVER__{name}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SERVER__PROT", "1", " is not known, did you mean PACS_SERVER__SERVER__PORT?"),
        (
            "PORT",
            "1",
            " is not known, did you mean PACS_SERVER__SERVER__PORT or PACS_SERVER__TLS__PORT or PACS_SERVER__WEB__PORT",
        ),
        ("SERVER__port", "1", " is not known"),
        ("SERVER", "{port: 1}", " is not known"),
        ("SERVER__PORT", "x", ": server.port: 'x' is not a whole number"),
        ("SERVER__PORT", "", ": server.port: has no value"),
        ("SERVER__PORT", "[", ": not valid YAML: "),
        ("REMOTE_AES", "[{ae_title: W, host: h, port: 0}]", ": remote_aes[0].port: 0 is not a port (1 to 65535)"),
        ("ACCESS_CONTROL__PEERS", "[{ae_title: A, allwo: []}]", ": access_control.peers[0].allwo: is not known, did"),
    ],
)
def test_environment_errors(load_text: Load, name: str, value: str, message: str) -> None:
    error = error_of(lambda: load_text("", {f"PACS_SERVER__{name}": value}))
    assert error.startswith(f"environment variable PACS_SERVER__{name}{message}")


def test_a_stronger_list_leaves_no_trace_of_the_weaker(load_text: Load) -> None:
    text = "remote_aes:\n- {ae_title: A, host: h, port: 1}\n- {ae_title: B, host: h, port: 1}"
    config = load_text(text, {"PACS_SERVER__REMOTE_AES": "[]"})
    assert config.remote_aes == ()
    assert config.where("remote_aes[1].port") == "default"


def test_relative_paths_start_where_they_are_written(load_text: Load, tmp_path: Path) -> None:
    config = load_text(
        "storage: {directory: ../a}\ndatabase: {path: /b/pacs.db}\nlogging: {file: c.log}",
        {"PACS_SERVER__TLS__CERT_PATH": "d.crt"},
        logging__file="e.log",
    )
    assert config.storage.directory == tmp_path.parent / "a"
    assert config.database.path == Path("/b/pacs.db")
    assert config.tls.cert_path == tmp_path / "elsewhere" / "d.crt"
    assert config.logging.file == tmp_path / "elsewhere" / "e.log"
    assert config.tls.key_path == tmp_path / "certs" / "server.key"  # a default, beside the file


def test_the_stronger_source_names_the_database(load_text: Load) -> None:
    url = "postgresql://u:geheim@db/pacs"
    config = load_text("database: {path: x.db}", {"PACS_SERVER__DATABASE__URL": url})
    assert config.database.sqlalchemy_url == url
    config = load_text(f"database: {{url: '{url}'}}", {"PACS_SERVER__DATABASE__PATH": "/x.db"})
    assert config.database.sqlalchemy_url == "sqlite:////x.db"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:ge@he:im@db/pacs", "postgresql://u:***@db/pacs"),
        ("postgresql://db/pacs?user=u&password=geheim&x=1", "postgresql://db/pacs?user=u&password=***&x=1"),
        ("postgresql+psycopg://u@db:5432/pacs", "postgresql+psycopg://u@db:5432/pacs"),
        ("sqlite:///x.db", "sqlite:///x.db"),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    config = DatabaseConfig(url=url)
    assert config.masked_url == masked
    assert "geheim" not in repr(config)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("1.5 GiB", 1_610_612_736), ("2kb", 2000), ("0B", 0), ("1TB", 10**12), (7, 7)],
)
def test_sizes(text: object, size: int) -> None:
    assert StorageConfig.model_validate({"min_free_space": text}).min_free_space == size


@pytest.mark.parametrize("size", ["", "1", "GB", "-1MB", -1, True, 1.5, "1EB"])
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(ValidationError):
        StorageConfig.model_validate({"min_free_space": size})


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "A\\B", "A\n", "Ä", "A\x7f"])
def test_what_is_no_ae_title(title: str) -> None:
    with pytest.raises(ValidationError):
        ServerConfig(ae_title=title)


def test_an_ae_title_loses_its_padding() -> None:
    assert ServerConfig(ae_title=f"  {'A B':14}   ").ae_title == "A B"


@pytest.mark.parametrize(("limits", "connections"), [({}, 200), ({"max_associations": 500}, 500)])
def test_connections_leave_room_for_associations(limits: dict[str, int], connections: int) -> None:
    assert ServerConfig.model_validate(limits).max_connections == connections


@pytest.mark.parametrize(
    ("text", "environ", "allowed"),
    [
        ("{}", {}, ("*",)),
        ("{peers: [{ae_title: A}]}", {}, ()),
        ("{peers: []}", {}, ("*",)),
        ("{peers: [{ae_title: A}], allowed_ae_titles: [CT*]}", {}, ("CT*",)),
        # The keys may come from different places.
        ("{allowed_ae_titles: [CT*]}", {"PEERS": "[{ae_title: A}]"}, ("CT*",)),
        ("{peers: [{ae_title: A}]}", {"ALLOWED_AE_TITLES": "['*']"}, ("*",)),
        ("{max_associations_per_ae: 3}", {"PEERS": "[{ae_title: A}]"}, ()),
        ("{peers: [{ae_title: A}]}", {"PEERS": "[]"}, ("*",)),
    ],
)
def test_with_peers_nobody_else_gets_in_unless_it_is_said(
    load_text: Load, text: str, environ: dict[str, str], allowed: tuple[str, ...]
) -> None:
    variables = {f"PACS_SERVER__ACCESS_CONTROL__{name}": value for name, value in environ.items()}
    assert load_text(f"access_control: {text}", variables).access_control.allowed_ae_titles == allowed


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [
        ({}, True),
        ({"server": {"host": "::"}}, True),
        ({"server": {"host": "pacs.hospital.example"}}, True),
        ({"server": {"host": "127.0.0.7"}}, False),
        ({"server": {"host": "::1"}}, False),
        ({"server": {"host": "localhost"}}, False),
        ({"access_control": {"allowed_ae_titles": ["CT*"]}}, False),
        ({"access_control": {"allowed_ae_titles": ["*"], "peers": [{"ae_title": "A"}]}}, False),
        ({"tls": {"enabled": True}}, True),
        ({"tls": {"require_client_cert": True, "ca_path": "ca.crt"}}, True),
        ({"tls": {"enabled": True, "require_client_cert": True, "ca_path": "ca.crt"}}, False),
        ({"tls": {"enabled": True, "require_client_cert": True, "ca_path": "ca.crt", "port": 2762}}, True),
        ({"user_identity": {"mode": "optional"}}, True),
        ({"user_identity": {"mode": "required"}}, False),
    ],
)
def test_a_server_that_is_open_to_everybody(settings: dict[str, dict[str, object]], is_open: bool) -> None:
    warning = open_to_everyone(Config.model_validate({"server": {"host": "0.0.0.0"}} | settings))
    assert (warning is not None) == is_open
    assert warning is None or "set access_control.peers" in warning


def test_every_setting_says_when_a_change_takes_effect() -> None:
    effects = {key: takes_effect(field) for key, field in settings()}
    assert [key for key, effect in effects.items() if effect is None] == []
    assert (effects["server.port"], effects["remote_aes"]) == (TakesEffect.AT_RESTART, TakesEffect.AT_RELOAD)
    listed = tuple(f"{name}." for name in LISTED)
    assert all_keys() == set(effects) | {key for key in all_keys() if key.startswith(listed)}


def test_changes_that_need_a_restart() -> None:
    old = Config()
    same = Config.model_validate({"server": {"max_associations": 7}, "logging": {"level": "debug"}})
    assert changed_needing_restart(old, same) == []
    new = Config.model_validate({"server": {"port": 1}, "database": {"path": "x"}, "logging": {"format": "json"}})
    assert changed_needing_restart(old, new) == ["server.port", "database.path", "logging.format"]


def test_a_remote_is_called_by_its_name_or_else_by_its_title(load_text: Load) -> None:
    config = load_text(TWO % "name: b, backups: [A], transfer_syntaxes: [JPEG2000Lossless, 1.2.840.10008.1.2]")
    assert [remote.name for remote in config.remote_aes] == ["A", "b"]
    named = config.remote("b")
    assert named is not None
    assert (named.ae_title, config.remote("B")) == ("B", None)
    assert named.transfer_syntaxes == ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2")


def test_files_with_secrets_of_remotes_are_found_from_the_directory_of_the_file(
    load_text: Load, tmp_path: Path
) -> None:
    remote = load_text(WEB % "auth: {bearer_file: token}").remote_aes[0]
    assert remote.auth is not None
    assert remote.auth.bearer_file == tmp_path / "token"


# --- the example file ---


def documented() -> dict[str, str]:
    """The comment above every key of the example file, by dotted key; a commented-out key has no blank after #."""
    comments: dict[str, str] = {}
    section, listed, lines = "", "", []
    for line in EXAMPLE.read_text().splitlines():
        if found := re.fullmatch(r"(?P<key>[a-z_]+):.*", line):
            section = found["key"]
            comments[section] = "\n".join(lines)
            listed = section if section in ("polling", "prefetch") else listed
            lines = []
        elif (
            found := re.fullmatch(r"  (?P<key>[a-z_]+):|    #?(?P<inner>[a-z_]+): .*", line)
            if section.startswith("web")
            else None
        ):
            section = f"web.{found['key']}" if found["key"] else section
            comments[f"{section}.{found['inner']}" if found["inner"] else section] = "\n".join(lines)
            lines = []
        elif found := re.fullmatch(AUTH_LINE, line):
            comments[f"remote_aes.auth.{found['key']}"] = "\n".join(lines)
            lines = []
        elif found := re.fullmatch(r"  (?:- |  #?|#)?(?P<key>[a-z0-9_]+):( .*)?", line):
            comments[f"{section}.{found['key']}"] = "\n".join(lines)
            listed = f"{section}.{found['key']}" if f"{section}.{found['key']}" in LISTED else listed
            lines = []
        elif found := re.fullmatch(PEER_LINE, line):
            comments[f"{listed}.{found['key']}"] = "\n".join(lines)
            lines = []
        elif line.strip().startswith("# "):
            lines.append(line.strip()[2:].strip())
        elif not line.strip():
            lines = []
    return comments


def all_keys() -> set[str]:
    keys = {key for key, _ in settings()}
    for name, model in LISTED.items():
        keys |= {f"{name}.{field.alias or key}" for key, field in model.model_fields.items()}
    return keys | TOP


def test_the_example_names_every_key() -> None:
    sections = {key.split(".")[0] for key in all_keys()} | {
        key.rpartition(".")[0] for key, _ in settings() if "." in key
    }
    assert set(documented()) == all_keys() | sections


@pytest.mark.parametrize("key", sorted(all_keys()))
def test_the_example_tells_the_default(key: str) -> None:
    comment = documented()[key].splitlines()
    assert len(comment) >= 2
    section, name = key.rpartition(".")[0], key.rpartition(".")[2]
    model = LISTED.get(section)
    field = dict(settings())[key] if model is None else model.model_fields["from_" if name == "from" else name]
    if field.is_required():
        assert comment[-1] == "Required."
        return
    if key in ("remote_aes.ae_title", "remote_aes.host", "remote_aes.port", "remote_aes.url"):
        assert comment[-1] == f"Required for kind {'dicomweb' if name == 'url' else 'dimse'}."
        return
    found = re.fullmatch(r"Default: (.+?)(\. Restart\.)?", comment[-1])
    assert found is not None
    assert bool(found[2]) == (key in NEED_RESTART)
    told = yaml.safe_load(found[1])
    if model is not None:
        needed = {each: value for each, value in NEEDED[section].items() if each != name}
        assert model.model_validate({**needed, name: told}) == model.model_validate(needed)
        return
    shown = told
    for part in reversed(key.split(".")):
        shown = {part: shown}
    assert setting(Config.model_validate(shown), key) == field.default


def test_the_example_loads() -> None:
    config = load(EXAMPLE, environ={}, overrides={})
    assert (config.server.ae_title, config.server.host, config.server.port) == ("MY_PACS", "0.0.0.0", 11112)
    assert config.remote_aes == (RemoteAEConfig(ae_title="WORKSTATION1", host="10.0.0.20", port=104),)
    assert config.logging.file == EXAMPLE.parent / "logs" / "pacs.log"
    # Its peer, and what a DICOMweb remote has, are commented out as a whole.
    commented = (
        *PeerRule.model_fields,
        *RoutingRule.model_fields,
        *RemoteAuthConfig.model_fields,
        *PollingConfig.model_fields,
        *PrefetchConfig.model_fields,
        "name",
        "url",
        "auth",
    )
    assert len(config.origins) > len(all_keys()) - len(commented)


def test_the_peer_and_the_rule_of_the_example_load(load_text: Load) -> None:
    text = EXAMPLE.read_text()
    lines = {}
    for name, end in (("access_control", "\naudit:"), ("routing", "\nremote_aes:")):
        part = text[text.index(f"\n{name}:") :].split(end)[0].splitlines()
        lines[name] = [each.replace("#", "", 1) for each in part if re.fullmatch(PEER_LINE, each)]
    config = load_text("\n".join(["access_control:", "  peers:", *lines["access_control"]]))
    assert set(config.access_control.peers[0].model_fields_set) == set(PeerRule.model_fields)
    remote = "remote_aes:\n  - {ae_title: WORKSTATION1, host: 127.0.0.1, port: 104, commitment: true}"
    second = max(number for number, line in enumerate(lines["routing"]) if line.startswith("  - name"))
    rules, deletions = lines["routing"][:second], lines["routing"][second:]
    section = ["routing:", "  webhook_secret_file: x", "  rules:", *rules, "  delete:", *deletions]
    config = load_text("\n".join([remote, *section]))
    assert set(config.routing.rules[0].model_fields_set) == set(RoutingRule.model_fields)
    assert set(config.routing.delete[0].model_fields_set) == set(DeletionRule.model_fields)
    assert compile_rules(config)


def test_the_polling_and_the_prefetch_of_the_example_load(load_text: Load) -> None:
    part = EXAMPLE.read_text().partition("\npolling:")[2].splitlines()
    lines = [each.replace("#", "", 1) if re.fullmatch(PEER_LINE, each) else each for each in part]
    remote = "remote_aes:\n  - {ae_title: WORKSTATION1, host: 127.0.0.1, port: 104}"
    config = load_text("\n".join([remote, "polling:", *lines]))
    assert set(config.polling[0].model_fields_set) == set(PollingConfig.model_fields)
    assert set(config.prefetch[0].model_fields_set) == set(PrefetchConfig.model_fields)


def test_analysing_what_is_polled_is_refused_in_plain_words(load_text: Load) -> None:
    remote = "remote_aes: [{ae_title: A, host: h, port: 104}]"
    with pytest.raises(ConfigError, match=r"polling\[0\]\.then: this server cannot analyse studies yet"):
        load_text(f"{remote}\npolling: [{{remote: A, every: 5m, then: analyse}}]")
    assert load_text(f"{remote}\npolling: [{{remote: A, every: 5m, then: route}}]").polling[0].then == "route"


def test_the_remote_of_the_example_loads_with_every_key() -> None:
    lines = [line.replace("    #", "    ", 1) for line in EXAMPLE.read_text().splitlines() if "    #" in line]
    keys = [line for line in lines if re.fullmatch(r"    ( {2})?[a-z_]+:( [^ ].*)?", line)]
    (remote,) = yaml.safe_load("\n".join(["- kind: dicomweb", *(line[2:] for line in keys)]))
    assert set(RemoteAuthConfig.model_validate(remote["auth"]).model_fields_set) == set(RemoteAuthConfig.model_fields)


def test_the_example_differs_from_the_defaults_only_where_it_says() -> None:
    example, default = load(EXAMPLE, environ={}, overrides={}), load(None, environ={}, overrides={})
    default_paths = {"storage.directory", "database.path", "tls.cert_path", "tls.key_path"}
    listed = (*TOP, "access_control.peers.", "routing.rules.", "routing.delete.")
    plain = {key for key in all_keys() if not key.startswith(listed)} - default_paths
    different = {key for key in plain if setting(example, key) != setting(default, key)}
    assert different == {"server.ae_title", "server.host", "logging.file"}


def test_which_keys_a_reload_changed() -> None:
    old = Config()
    remote = RemoteAEConfig(ae_title="WS", host="ws", port=104)
    new = old.model_copy(
        update={
            "server": old.server.model_copy(update={"port": 104}),
            "tls": old.tls.model_copy(update={"require_client_cert": True}),
            "remote_aes": (remote,),
        }
    )
    assert changed(old, new) == ["remote_aes", "server.port", "tls.require_client_cert"]
    assert changed(old, old) == []
