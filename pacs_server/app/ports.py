"""The ports of the server: bound together, before anything is changed on disk."""

import errno
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from pacs_server.config.model import Config
from pacs_server.net.listener import bind

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ports:
    """The bound sockets; `tls` is the same as `dicom` when server.port speaks TLS."""

    dicom: socket.socket
    tls: socket.socket | None
    monitoring: socket.socket | None
    hl7: socket.socket | None
    web: socket.socket | None

    def stop(self) -> None:
        """Close all sockets."""
        for sock in (self.web, self.hl7, self.monitoring, self.tls, self.dicom):
            if sock is not None:
                sock.close()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the server listens; None for a port that it does not have."""

    dicom: Address
    tls: Address | None = None
    monitoring: Address | None = None
    hl7: Address | None = None
    web: Address | None = None

    @classmethod
    def of(cls, ports: Ports) -> "Addresses":
        """The addresses of the bound sockets."""
        others = (ports.tls, ports.monitoring, ports.hl7, ports.web)
        return cls(_address(ports.dicom), *(None if sock is None else _address(sock) for sock in others))


def bind_ports(config: Config) -> Ports:
    """Bind every port that `config` wants, all or none. Raises ConfigError that names the setting."""
    server, worklist, monitoring, tls = config.server, config.worklist, config.monitoring, config.tls
    with ExitStack() as stack:

        def bound(host: str, port: int, *, host_key: str, port_key: str) -> socket.socket:
            sock = _bind(config, host, port, host_key=host_key, port_key=port_key)
            stack.callback(sock.close)
            return sock

        dicom = bound(server.host, server.port, host_key="server.host", port_key="server.port")
        tls_sock = hl7 = pages = web = None
        if tls.enabled:
            # Without a port of its own, TLS is spoken on server.port.
            tls_sock = dicom
            if tls.port is not None:
                tls_sock = bound(server.host, tls.port, host_key="server.host", port_key="tls.port")
        if monitoring.enabled:
            host, port = monitoring.host, monitoring.metrics_port
            pages = bound(host, port, host_key="monitoring.host", port_key="monitoring.metrics_port")
        if worklist.hl7_port is not None:
            host, port = worklist.hl7_host, worklist.hl7_port
            hl7 = bound(host, port, host_key="worklist.hl7_host", port_key="worklist.hl7_port")
        if config.web.enabled:
            web = bound(config.web.host, config.web.port, host_key="web.host", port_key="web.port")
        stack.pop_all()
    return Ports(dicom, tls_sock, pages, hl7, web)


def _bind(config: Config, host: str, port: int, *, host_key: str, port_key: str) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as error:
        host_is_wrong = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        problem = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise config.error(host_key if host_is_wrong else port_key, problem) from None


def _address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return host, port
