"""Secrets: read from files of their own, and never shown by anything that people or machines read."""

import logging
import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import PacsProcess, run_command
from pydantic import ValidationError

from pacs_server.config import AuditConfig, Config, TLSConfig, UserIdentityConfig
from pacs_server.config import secrets as config_secrets
from pacs_server.config.cautions import cautions
from pacs_server.config.load import load
from pacs_server.config.model import settings
from pacs_server.config.secrets import SECRETS, is_secret
from pacs_server.errors import ConfigError
from pacs_server.index.database import Database

SECRET = "Hidden0WordThatIsLongEnoughToBeAKey"
URL = f"postgresql://pacs:{SECRET}@127.0.0.1:1/pacs"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "etc/pacs.yaml", mode: int = 0o600) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    return write


def value_of(config: Config, key: str) -> str | None:
    secret = {"database.url": config.database.url, "tls.key_password": config.tls.key_password}.get(
        key, config.audit.key
    )
    return secret if secret is None or isinstance(secret, str) else secret.get_secret_value()


def yaml_of(key: str, value: str) -> str:
    section, _, name = key.partition(".")
    return f"{section}:\n  {name}: {value}\n"


def secret_for(key: str) -> str:
    return URL if key == "database.url" else SECRET


# --- from files of their own ---


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_in_a_file_beside_the_configuration(write: Write, key: str, end: str) -> None:
    file = write(secret_for(key) + end, "etc/secret")
    config = load(write(yaml_of(key, "file:secret")), environ={}, overrides={})
    assert value_of(config, key) == secret_for(key)
    assert config.secret_files == {key: file}
    assert config.where(key).endswith("line 2")


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_in_a_file_that_the_environment_names(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(secret_for(key), "run/secret")
    name = "PACS_SERVER__" + key.replace(".", "__").upper()
    written = write(yaml_of(key, "file:not_there"))
    for value in ("file:run/secret", f"file:{file}"):
        assert value_of(load(written, environ={name: value}, overrides={}), key) == secret_for(key)
    assert value_of(load(written, environ={name: secret_for(key)}, overrides={}), key) == secret_for(key)


def test_only_one_line_break_at_the_end_goes_away(write: Write) -> None:
    write(f"  {SECRET}\n\n", "etc/secret")
    assert (
        value_of(load(write("audit: {key: 'file:secret'}"), environ={}, overrides={}), "audit.key") == f"  {SECRET}\n"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not there"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff" + SECRET.encode(), "is not UTF-8 text"),
        (SECRET.encode() * 200, "is larger than 4096 bytes, which is no secret"),
    ],
)
def test_files_that_hold_no_secret(write: Write, content: bytes | None, says: str) -> None:
    file = write("", "etc/secret")
    file.unlink() if content is None else file.write_bytes(content)
    settings = write("tls:\n\n  key_password: file:secret\n")
    assert error_of(settings) == f"{settings} line 3: tls.key_password: {file} {says}"


def test_a_directory_a_pipe_and_what_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = write("audit: {key: file:it}")
    it = settings.parent / "it"
    it.mkdir()
    assert error_of(settings).endswith("it is not a file")
    it.rmdir()
    os.mkfifo(it)
    assert error_of(settings).endswith("it is not a file")
    it.unlink()
    it.write_text(SECRET)
    monkeypatch.setattr(Path, "is_file", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert error_of(settings).endswith("it cannot be read: Permission denied")


def error_of(settings: Path, **environ: str) -> str:
    """The sentence of the ConfigError; nothing of it may show the secret, however it is printed."""
    with pytest.raises(ConfigError) as caught:
        load(settings, environ=environ, overrides={})
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in told
    return str(caught.value)


# --- never shown ---


@pytest.mark.parametrize(
    "text",
    [
        f"database: {{url: 'mysql://pacs:{SECRET}@host/db'}}",
        f'database: {{url: "postgresql://pacs:{SECRET}\\x01@host/db"}}',
        f"database: {{url: [{SECRET}]}}",
        f"database: {{path: a.db, url: 'postgresql://pacs:{SECRET}@host/db'}}",
        f"database: postgresql://pacs:{SECRET}@host/db",
        f"tls: {SECRET}",
        f"tls: [{SECRET}]",
        f"tls: {{key_password: [{SECRET}]}}",
        f"tls: {{key_password: !{SECRET} x}}",
        f"tls: {{key_password: !{SECRET}!x y}}",
        f"tls: {{key_password: *{SECRET}}}",
        f"tls: {{key_password: &{SECRET}}} x",
        f"tls: {{key_password: '{SECRET}\n",
        f"audit: {{key: {{a: {SECRET}}}}}",
        f"audit: {{key: '{SECRET}', days: 3}}",
        f"audit: '{SECRET}'",
        f"audit: {{key: '{SECRET}'}}\nserver: {{port: 70000}}",
        f"audit: {{key: '{SECRET}'}}\nserver: {{port: 104}}\nmonitoring: {{metrics_port: 104, host: 127.0.0.1}}",
    ],
)
def test_errors_do_not_quote_secrets(write: Write, text: str) -> None:
    assert error_of(write(text))


def test_numbers_are_not_quoted_either(write: Write) -> None:
    for key in SECRETS:
        sentence = error_of(write(yaml_of(key, "8675309")))
        assert sentence.endswith(f"{key}: the value is not text (put it in quotes)")


def test_other_values_are_quoted_as_ever(write: Write) -> None:
    assert "70000 is not a port" in error_of(write("server: {port: 70000}"))
    assert "'x' is not a whole number" in error_of(write("server: {port: x}"))
    assert not any(map(is_secret, ("server", "server.port", "tls.enabled", "database.path", "", "audit.key_")))


def test_what_pydantic_says_of_a_wrong_value_does_not_show_it() -> None:
    for wrong in ({"key": [SECRET]}, {"keyy": SECRET}, {"retention_years": SECRET}):
        with pytest.raises(ValidationError) as caught:
            AuditConfig.model_validate(wrong)
        assert SECRET not in str(caught.value) + repr(caught.value)


@pytest.fixture
def full(write: Write) -> Path:
    """A configuration with a secret in every place that can have one."""
    return write(
        f"database: {{url: '{URL}'}}\ntls: {{key_password: {SECRET}}}\naudit: {{key: {SECRET}}}\nserver: {{port: 0}}\n"
    )


def test_settings_do_not_show_secrets(full: Path) -> None:
    config = load(full, environ={}, overrides={})
    told = [repr(config), str(config), repr(config.database), repr(config.tls), repr(config.audit)]
    assert not any(SECRET in text for text in told)
    assert all(SECRET in str(value_of(config, key)) for key in SECRETS)


def test_no_setting_that_looks_secret_is_missing_from_the_table() -> None:
    # The address of the server for its clients is told to everybody.
    names = {key for key, _ in settings()} - {"web.public_url"}
    looks = {key for key in names if re.search(r"(^|[._])(password|secret|key|token|url)$", key)}
    assert looks == set(SECRETS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "check-config",
        "conformance",
        "status",
        "migrate",
        "worklist list",
        "user remove nobody",
        "audit search",
        "--log-level debug",
    ],
)
def test_the_commands_do_not_show_secrets(full: Path, tmp_path: Path, command: str) -> None:
    done = run_command("--config", full, *command.split(), cwd=tmp_path)
    told = done.stdout + done.stderr + "".join(file.read_text() for file in tmp_path.rglob("*.log"))
    assert told
    assert SECRET not in told
    if command == "check-config":
        assert "database.url: postgresql://pacs:***@127.0.0.1:1/pacs" in told
        assert "audit.key: **********" in told


@pytest.mark.slow
def test_a_running_server_does_not_show_secrets(write: Write, tmp_path: Path) -> None:
    """Not on its pages, not in its log at level debug, and not when a bad configuration is to be taken over."""
    write(SECRET, "pacs/secret")
    settings = {
        "audit": {"key": "file:secret", "directory": str(tmp_path / "audit")},
        "tls": {"key_password": SECRET},
        "logging": {"level": "debug", "file": "pacs.log"},
    }
    with PacsProcess(tmp_path / "pacs", settings=settings) as pacs:
        pages = [pacs.get(page)[1] for page in ("/status", "/metrics", "/readyz")]
        pacs.reload({"audit": {"key": [SECRET]}})
        pacs.reload({"database": {"url": f"mysql://pacs:{SECRET}@host/pacs"}})
        pages.append(pacs.get("/status")[1])
        log = pacs.log() + (pacs.directory / "pacs.log").read_text()
        assert "configuration not reloaded" in log
        assert "audit.key: the value is not text" in log
        assert SECRET not in log + "".join(pages)


@pytest.mark.parametrize("url", [URL, f"{URL}?sslpassword={SECRET}", f"postgresql://{SECRET}@[", f"{URL}:x"])
def test_a_database_that_does_not_answer_is_named_without_the_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        Database(url).migrate()
    assert SECRET not in str(caught.value) + caplog.text


# --- who else can read them ---


def test_files_that_others_can_read_are_named(write: Write, tmp_path: Path) -> None:
    secret, users = write(SECRET, "etc/secret", 0o640), write("", "etc/users", 0o604)
    text = "audit: {key: file:secret}\nuser_identity: {mode: optional, users_path: users}\n"
    settings = write(text, mode=0o644)
    assert cautions(load(settings, environ={}, overrides={})) == [
        f"others than its owner may read {path}: take that away with chmod 600" for path in (secret, users)
    ]
    for path in (secret, users):
        path.chmod(0o600)
    assert cautions(load(settings, environ={}, overrides={})) == []
    settings = write(f"audit: {{key: {SECRET}}}", mode=0o640)
    assert cautions(load(settings, environ={}, overrides={})) == [
        f"others than its owner may read {settings}: take that away with chmod 600"
    ]
    assert cautions(load(settings, environ={"PACS_SERVER__AUDIT__KEY": SECRET}, overrides={})) == []


@pytest.mark.parametrize(
    ("mode", "host", "tls", "warned"),
    [
        ("off", "0.0.0.0", TLSConfig(), False),
        ("required", "127.0.0.1", TLSConfig(), False),
        ("required", "0.0.0.0", TLSConfig(), True),
        ("optional", "::", TLSConfig(), True),
        ("required", "10.0.0.1", TLSConfig(enabled=True), False),
        ("required", "10.0.0.1", TLSConfig(enabled=True, port=2762), True),
    ],
)
def test_passwords_in_the_clear_are_warned_of(mode: str, host: str, tls: TLSConfig, warned: bool) -> None:
    config = Config()
    server = config.server.model_copy(update={"host": host})
    identity = UserIdentityConfig(mode=mode)  # type: ignore[arg-type]
    config = config.model_copy(update={"server": server, "tls": tls, "user_identity": identity})
    assert any("passwords travel in the clear" in caution for caution in cautions(config)) == warned


def test_a_path_that_is_not_printable_breaks_no_line() -> None:
    assert config_secrets._shown(Path("a\nb")) == "'a\\nb'"


@pytest.mark.parametrize(
    ("web", "warned"),
    [
        ({}, False),
        ({"trusted_proxies": ["10.0.0.1"]}, True),
        ({"trusted_proxies": ["10.0.0.1"], "enabled": False}, False),
        ({"trusted_proxies": ["10.0.0.1"], "public_url": "https://pacs.example.org"}, False),
    ],
)
def test_an_address_that_clients_may_choose_is_warned_of(web: dict[str, object], warned: bool) -> None:
    config = Config.model_validate({"web": web})
    assert any("set web.public_url" in caution for caution in cautions(config)) == warned
