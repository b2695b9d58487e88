"""A stream's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..pipelines.stream import Stream
from .ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator


class StreamCollector:
    """Asks the stream whenever Prometheus asks it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def collect(self) -> Iterable[Any]:
        """The families of metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = self._stream.status()
        yield CounterMetricFamily("idlegrid_stream_records", "Records that came into the sink.", value=now.records)
        yield CounterMetricFamily("idlegrid_stream_errors", "Of them, those with an error.", value=now.errors)
        lag = "Seconds for which the oldest record that is not in the sink has been there."
        yield GaugeMetricFamily("idlegrid_stream_lag_seconds", lag, value=now.lag_seconds)
        yield GaugeMetricFamily("idlegrid_stream_in_flight_batches", "Batches under way.", value=now.in_flight)
        if now.backlog is not None:
            text = "Records that the source has and that were not read."
            yield GaugeMetricFamily("idlegrid_stream_backlog_records", text, value=now.backlog)


@contextmanager
def metrics_at(stream: Stream, port: int | None) -> Iterator[int | None]:
    """Serve a stream's figures on this machine while the block runs; `port` 0 is any, None is none. Gives the port."""
    if port is None:
        yield None
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(StreamCollector(stream))
    server, thread = start_http_server(port, LOOPBACK, registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
