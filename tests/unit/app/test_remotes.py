"""DICOMweb remotes from the settings: secrets from files that are never shown, certificates, cautions."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Authority

from pacs_server.app.remotes import dicomweb_remotes
from pacs_server.config import Config
from pacs_server.config.cautions import cautions
from pacs_server.config.disk import check_filesystem
from pacs_server.config.load import load
from pacs_server.errors import ConfigError
from pacs_server.scu.dicomweb.remote import ClientCredentials, DICOMwebRemote, SecretHeader

Load = Callable[..., Config]


@pytest.fixture
def load_remote(tmp_path: Path) -> Load:
    """Loads settings with one DICOMweb remote, from lines of YAML."""

    def load_remote(
        *lines: str, url: str = "https://archive.example/dicom-web", secret: str | bytes = "hush\n"
    ) -> Config:
        file = tmp_path / "secret"
        file.write_bytes(secret if isinstance(secret, bytes) else secret.encode())
        file.chmod(0o600)
        text = "\n".join(["remote_aes:", "- kind: dicomweb", "  name: cloud", f"  url: {url}", *lines, ""])
        (tmp_path / "pacs_server.yaml").write_text(text)
        return load(tmp_path / "pacs_server.yaml", environ={}, overrides={})

    return load_remote


def remote_of(config: Config) -> DICOMwebRemote:
    return dicomweb_remotes(config)["cloud"]


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("{bearer_file: secret}", SecretHeader("Authorization", "Bearer hush")),
        ("{user: anna, password_file: secret}", SecretHeader("Authorization", "Basic YW5uYTpodXNo")),
        ("{header: X-API-Key, key_file: secret}", SecretHeader("X-API-Key", "hush")),
        (
            "{token_url: 'https://login.example/token/', client_id: pacs, client_secret_file: secret, scope: a b}",
            ClientCredentials("https://login.example/token/", "pacs", "hush", "a b"),
        ),
        ("{ca_path: ca/ca.pem}", None),
    ],
)
def test_every_way_to_log_in(
    load_remote: Load, tmp_path: Path, auth: str, expected: SecretHeader | ClientCredentials | None
) -> None:
    Authority(tmp_path / "ca")
    config = load_remote(f"  auth: {auth}", "  max_associations: 5", "  rate: 5MB", "  response_timeout: 7")
    remote = remote_of(config)
    assert remote.auth == expected
    assert (remote.url, remote.max_associations, remote.rate) == ("https://archive.example/dicom-web", 5, 5_000_000)
    assert (remote.connect_timeout, remote.response_timeout) == (10.0, 7.0)
    assert isinstance(remote.tls, ssl.SSLContext)
    assert remote.tls.check_hostname
    assert "hush" not in repr(remote)
    assert "hush" not in repr(config)
    check_filesystem(config)


def test_a_secret_is_read_again_with_the_settings(load_remote: Load) -> None:
    config = load_remote("  auth: {bearer_file: secret}")
    assert remote_of(config).auth == SecretHeader.bearer("hush")
    again = load_remote("  auth: {bearer_file: secret}", secret="another")
    assert remote_of(again).auth == SecretHeader.bearer("another")


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "is empty"),
        ("hush\nX-Other: 1", "has characters that cannot be in a header"),
        ("hüsh", "has characters that cannot be in a header"),
        (b"\xff\xff", "is not UTF-8 text"),
        ("h" * 5000, "is larger than 4096 bytes, which is no secret"),
    ],
)
def test_secrets_that_cannot_be_used_are_refused_and_not_quoted(
    load_remote: Load, tmp_path: Path, secret: str | bytes, problem: str
) -> None:
    config = load_remote("  auth: {header: X-API-Key, key_file: secret}", secret=secret)
    for use in (dicomweb_remotes, check_filesystem):
        with pytest.raises(ConfigError) as raised:
            use(config)
        assert str(raised.value).endswith(f"remote_aes[0].auth.key_file: {tmp_path}/secret {problem}")
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="is not there"):
        dicomweb_remotes(config)


def test_certificates(load_remote: Load, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    assert authority.client.certificate.name == "client.pem"
    auth = "  auth: {cert_path: ca/client.pem, key_path: ca/%s, ca_path: ca/%s}"
    remote = remote_of(load_remote(auth % ("client.key", "ca.pem"), "  tls_check_hostname: false"))
    assert remote.tls is not None
    assert not remote.tls.check_hostname
    assert remote.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(remote.tls.get_ca_certs()) == 1
    for key, ca, problem in (
        ("server.key", "ca.pem", "auth.key_path: .*is not the key of the certificate"),
        ("client.key", "client.key", "auth.ca_path: .*holds no certificate in PEM"),
        ("nothing", "ca.pem", "auth.key_path: .*No such file"),
    ):
        with pytest.raises(ConfigError, match=problem):
            check_filesystem(load_remote(auth % (key, ca)))


def test_what_is_less_safe_than_it_could_be_is_said(load_remote: Load, tmp_path: Path) -> None:
    def said(config: Config) -> list[str]:
        return [each for each in cautions(config) if "remote_aes" in each or "secret" in each]

    assert said(load_remote("  auth: {bearer_file: secret}")) == []
    assert said(load_remote(url="http://127.0.0.1:8042/dicom-web")) == []
    (clear,) = said(load_remote(url="http://archive.example/dicom-web"))
    assert clear == "remote_aes[0].url is not https: patient data travel in the clear"
    token = "  auth: {token_url: 'http://login.example/t', client_id: c, client_secret_file: secret}"
    assert said(load_remote(token)) == [
        "remote_aes[0].auth.token_url is not https: the client's secret travels in the clear"
    ]
    config = load_remote("  auth: {bearer_file: secret}")
    (tmp_path / "secret").chmod(0o644)
    (readable,) = said(config)
    assert readable == f"others than its owner may read {tmp_path}/secret: take that away with chmod 600"
