"""Ports are bound together, and who reads an error knows which setting to change."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pacs_server.app.ports import Addresses, bind_ports
from pacs_server.config import Config
from pacs_server.config.load import load
from pacs_server.errors import ConfigError

# An address that this machine does not have (RFC 5737).
NOT_HERE = "192.0.2.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def config(**settings: Any) -> Config:
    off = {"server.port": 0, "monitoring.enabled": False}
    return load(None, environ={}, overrides=off | {key.replace("__", "."): value for key, value in settings.items()})


ALL = {"tls__enabled": True, "tls__port": 0, "monitoring__enabled": True, "monitoring__metrics_port": 0}


@pytest.mark.parametrize("key", ["server.port", "tls.port", "monitoring.metrics_port", "worklist.hl7_port"])
def test_a_port_in_use_is_named_and_the_others_are_free_again(taken: int, key: str) -> None:
    settings = {**ALL, "worklist__hl7_port": 0, key.replace(".", "__"): taken}
    with pytest.raises(ConfigError, match=rf"{key}: cannot listen on 127.0.0.1 port {taken}: Address already in use"):
        bind_ports(config(**settings))


@pytest.mark.parametrize(
    ("host_key", "settings"),
    [
        ("server.host", {}),
        ("monitoring.host", {"monitoring.enabled": True, "monitoring.metrics_port": 0}),
        ("worklist.hl7_host", {"worklist.hl7_port": 0}),
    ],
)
@pytest.mark.parametrize("host", [NOT_HERE, "no-such-host.invalid"])
def test_a_host_that_is_not_here_is_named(host_key: str, settings: dict[str, object], host: str) -> None:
    overrides = {key.replace(".", "__"): value for key, value in {**settings, host_key: host}.items()}
    with pytest.raises(ConfigError, match=f"{host_key}: cannot listen on {host} port 0: "):
        bind_ports(config(**overrides))


def test_the_host_of_the_tls_port_is_that_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str, port: int) -> socket.socket:
        if port == 4242:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return socket.create_server((host, port))

    monkeypatch.setattr("pacs_server.app.ports.bind", refuse)
    with pytest.raises(ConfigError, match=r"server.host: cannot listen on 127.0.0.1 port 4242: Name or service"):
        bind_ports(config(tls__enabled=True, tls__port=4242))


def test_tls_without_a_port_of_its_own_is_spoken_on_the_port_of_the_server() -> None:
    ports = bind_ports(config(tls__enabled=True))
    addresses = Addresses.of(ports)
    assert ports.tls is ports.dicom
    assert (addresses.tls, addresses.monitoring, addresses.hl7) == (addresses.dicom, None, None)
    ports.stop()
    assert ports.dicom.fileno() == -1


def test_stop_closes_every_port() -> None:
    ports = bind_ports(config(**ALL, worklist__hl7_port=0))
    sockets = (ports.dicom, ports.tls, ports.monitoring, ports.hl7)
    assert len(set(sockets)) == 4
    ports.stop()
    assert [sock.fileno() for sock in sockets if sock is not None] == [-1] * 4
