"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("path", "status")
        self._requests = Counter("medlip_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "medlip_request_seconds", "Seconds to answer.", ("path",), buckets=_SECONDS, registry=self._registry
        )
        self._images = Counter("medlip_images", "Images read.", ("model",), registry=self._registry)
        self._batches = Counter("medlip_batches", "Batches read.", ("model",), registry=self._registry)

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            path: as it was declared.
            status: of HTTP.
            seconds: it took.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_batch(self, model: str, size: int) -> None:
        """Count a batch of so many images."""
        self._images.labels(model).inc(size)
        self._batches.labels(model).inc()

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a number that is asked for when metrics are."""
        Gauge(name, meaning, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self._registry)
