"""The ports of the server: bound together, before anything is changed on disk."""

import errno
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from pacs_server.config.model import Config
from pacs_server.net.listener import bind


@dataclass(frozen=True, slots=True)
class Ports:
    """The bound sockets; `tls` is the same as `dicom` when server.port speaks TLS."""

    dicom: socket.socket
    tls: socket.socket | None
    monitoring: socket.socket | None
    hl7: socket.socket | None


def address_of(sock: socket.socket) -> tuple[str, int]:
    """Where a socket is bound."""
    host, port = sock.getsockname()[:2]
    return host, port


def bind_ports(config: Config, stack: ExitStack) -> Ports:
    """Bind every port that `config` wants, closed again with `stack`. Raises ConfigError that names the key."""

    def bound(key: str, host: str, port: int) -> socket.socket:
        sock = _bind(config, key, host, port)
        stack.callback(sock.close)
        return sock

    server, worklist, monitoring = config.server, config.worklist, config.monitoring
    dicom = bound("server.port", server.host, server.port)
    tls = hl7 = pages = None
    if config.tls.enabled:
        tls = dicom if config.tls.port is None else bound("tls.port", server.host, config.tls.port)
    if monitoring.enabled:
        pages = bound("monitoring.metrics_port", monitoring.host, monitoring.metrics_port)
    if worklist.hl7_port is not None:
        hl7 = bound("worklist.hl7_port", worklist.hl7_host, worklist.hl7_port)
    return Ports(dicom, tls, pages, hl7)


def _bind(config: Config, key: str, host: str, port: int) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            # server.port -> server.host, worklist.hl7_port -> worklist.hl7_host: not the port is at fault.
            key = key.replace("tls", "server").replace("metrics_port", "host").replace("port", "host")
        problem = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise config.error(key, problem) from None
