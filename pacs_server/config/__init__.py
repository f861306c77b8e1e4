"""Settings: frozen values, one class a section, and how they are read from files, environment and command line."""

from pacs_server.config.model import (
    AccessControlConfig,
    AuditConfig,
    CommitmentConfig,
    Config,
    DatabaseConfig,
    LoggingConfig,
    MonitoringConfig,
    PeerRule,
    RemoteAE,
    ServerConfig,
    StorageConfig,
    TLSConfig,
    UserIdentityConfig,
    WorklistConfig,
)

__all__ = [
    "AccessControlConfig",
    "AuditConfig",
    "CommitmentConfig",
    "Config",
    "DatabaseConfig",
    "LoggingConfig",
    "MonitoringConfig",
    "PeerRule",
    "RemoteAE",
    "ServerConfig",
    "StorageConfig",
    "TLSConfig",
    "UserIdentityConfig",
    "WorklistConfig",
]
