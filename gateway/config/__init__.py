"""Configuration: its models, how a file becomes them, and every fault of one named by path and line."""

from gateway.config.addresses import Address, Endpoint, TcpAddress, UnixAddress
from gateway.config.loading import Loaded, load, load_with_files
from gateway.config.model import (
    Admin,
    Backend,
    BackendTls,
    CertificatePair,
    Compression,
    Config,
    Delivery,
    Health,
    Limits,
    Listener,
    ListenerTls,
    Log,
    Match,
    Route,
    RouteTimeouts,
    Timeouts,
)

__all__ = [
    "Address",
    "Admin",
    "Backend",
    "BackendTls",
    "CertificatePair",
    "Compression",
    "Config",
    "Delivery",
    "Endpoint",
    "Health",
    "Limits",
    "Listener",
    "ListenerTls",
    "Loaded",
    "Log",
    "Match",
    "Route",
    "RouteTimeouts",
    "TcpAddress",
    "Timeouts",
    "UnixAddress",
    "load",
    "load_with_files",
]
