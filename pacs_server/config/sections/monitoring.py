"""The section `monitoring`: the HTTP port for metrics and status."""

from pacs_server.config.types import Host, Port, Restart, Section


class MonitoringConfig(Section):
    """The HTTP port for metrics and status; 0 takes any free port."""

    enabled: Restart[bool] = True
    host: Restart[Host] = "127.0.0.1"
    metrics_port: Restart[Port] = 9090
