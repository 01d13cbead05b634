"""What `/metrics` shows, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server.

    Args:
        running: gives how many replies are being made.
        waiting: gives how many wait.
    """

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "atom_edge_requests",
            "Requests for text, by route and status",
            ["route", "status"],
            registry=self._registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts")
        self.cached_tokens = self._counter("cached_tokens", "Tokens of prompts found in a cache")
        self.generated_tokens = self._counter("generated_tokens", "Tokens of replies")
        self.first_token = Histogram(
            "atom_edge_first_token_seconds",
            "From a request to its first token",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.whole = Histogram(
            "atom_edge_request_seconds",
            "From a request to the end of its response",
            registry=self._registry,
            buckets=_SECONDS,
        )
        for name, explanation, function in (
            ("running", "Replies that are being made", running),
            ("waiting", "Replies that wait for a place", waiting),
        ):
            gauge = Gauge(f"atom_edge_{name}", explanation, registry=self._registry)
            gauge.set_function(function)

    def _counter(self, name: str, explanation: str) -> Counter:
        return Counter(f"atom_edge_{name}", explanation, registry=self._registry)

    def text(self) -> bytes:
        """All of it as it stands."""
        return generate_latest(self._registry)
