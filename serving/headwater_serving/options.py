"""Options of the gRPC server: every limit, with its default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from headwater.errors import ConfigError

__all__ = ["ServerOptions"]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits of a server; more than a limit allows is refused, never queued without end.

    A stream holds a worker thread while it lasts, so `streams_max` stays below `workers`. Calls of
    other workers have `peer_workers` threads of their own.
    `connection_age_max_s` closes connections gracefully, so that clients spread over new workers.
    """

    workers: int = 8
    peer_workers: int = 8
    concurrent_rpcs_max: int = 256
    streams_max: int = 4
    rows_max: int = 10_000
    features_max: int = 4_096
    request_bytes_max: int = 16 * _MIB
    response_bytes_max: int = 64 * _MIB
    keepalive_s: int = 60
    keepalive_timeout_s: int = 20
    connection_age_max_s: int = 3_600
    connection_grace_s: int = 300
    reflection: bool = False

    def __post_init__(self) -> None:
        """Refuse limits that can't work."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and value < 1:
                raise ConfigError(f"server option {field.name} is {value}; it must be 1 or more")
        if self.streams_max >= self.workers:
            raise ConfigError(
                f"server option streams_max is {self.streams_max} with {self.workers} workers;"
                " streams hold a worker each, so leave at least one for other calls"
            )

    def channel_arguments(self) -> list[tuple[str, int]]:
        """Return the options as gRPC's channel arguments."""
        return [
            # Two servers on one port would share its calls silently; the second must fail instead.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self.request_bytes_max),
            ("grpc.max_send_message_length", self.response_bytes_max),
            ("grpc.keepalive_time_ms", self.keepalive_s * 1_000),
            ("grpc.keepalive_timeout_ms", self.keepalive_timeout_s * 1_000),
            # Clients may ping as often as ours do without being cut off.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.max_connection_age_ms", self.connection_age_max_s * 1_000),
            ("grpc.max_connection_age_grace_ms", self.connection_grace_s * 1_000),
        ]
