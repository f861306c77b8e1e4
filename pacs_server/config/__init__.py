"""The settings: one frozen class for each section, and how they are read from file, environment and command line."""

from pacs_server.config.model import Config
from pacs_server.config.sections.access_control import AccessControlConfig, PeerRule
from pacs_server.config.sections.audit import AuditConfig
from pacs_server.config.sections.commitment import CommitmentConfig
from pacs_server.config.sections.database import DatabaseConfig
from pacs_server.config.sections.fetching import FetchingConfig
from pacs_server.config.sections.forwarding import ForwardingConfig
from pacs_server.config.sections.logging import LoggingConfig
from pacs_server.config.sections.monitoring import MonitoringConfig
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.config.sections.remote_auth import RemoteAuthConfig
from pacs_server.config.sections.routing import DeletionRule, RoutingConfig, RoutingRule
from pacs_server.config.sections.server import ServerConfig
from pacs_server.config.sections.storage import StorageConfig
from pacs_server.config.sections.tls import TLSConfig
from pacs_server.config.sections.user_identity import UserIdentityConfig
from pacs_server.config.sections.web import OIDCConfig, WebConfig, WebSessionsConfig, WebShareLinksConfig, WebTLSConfig
from pacs_server.config.sections.worklist import WorklistConfig

__all__ = [
    "AccessControlConfig",
    "AuditConfig",
    "CommitmentConfig",
    "Config",
    "DatabaseConfig",
    "DeletionRule",
    "FetchingConfig",
    "ForwardingConfig",
    "LoggingConfig",
    "MonitoringConfig",
    "OIDCConfig",
    "PeerRule",
    "RemoteAEConfig",
    "RemoteAuthConfig",
    "RoutingConfig",
    "RoutingRule",
    "ServerConfig",
    "StorageConfig",
    "TLSConfig",
    "UserIdentityConfig",
    "WebConfig",
    "WebSessionsConfig",
    "WebShareLinksConfig",
    "WebTLSConfig",
    "WorklistConfig",
]
