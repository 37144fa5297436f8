"""What the server counts, in Prometheus' text form."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from codellama.runtime.records import Result

disable_created_metrics()  # type: ignore[no-untyped-call] # it ships no types
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one server; `waiting` and `running` tell the queue when they are asked."""

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("route", "client", "outcome")
        self._requests = Counter("codellama_requests", "Requests answered", labels, registry=registry)
        self._prompt = _tokens("prompt", "of prompts", registry)
        self._reused = _tokens("reused", "of prompts that a cache held", registry)
        self._generated = _tokens("generated", "of answers", registry)
        self._seconds = _seconds("request", "From a request to the end of its answer", registry)
        self._queued = _seconds("queue", "From a request to its turn", registry)
        self._first = _seconds("first_text", "From a request to the first text of its answer", registry)
        _gauge("waiting", "Requests that wait for their turn", waiting, registry)
        _gauge("running", "Requests that the engines are at", running, registry)
        _gauge("in_flight", "Requests that wait or run", lambda: waiting() + running(), registry)

    def began(self, route: str, seconds: float) -> None:
        """A request got its turn."""
        self._queued.labels(route).observe(seconds)

    def spoke(self, route: str, seconds: float) -> None:
        """The first text of an answer is there."""
        self._first.labels(route).observe(seconds)

    def computed(self, client: str, result: Result) -> None:
        """What an answer took, whether somebody still wants it or not."""
        self._prompt.labels(client).inc(result.stats.prompt_tokens)
        self._reused.labels(client).inc(result.stats.reused_tokens)
        self._generated.labels(client).inc(result.stats.tokens)

    def ended(self, route: str, client: str, outcome: str, seconds: float) -> None:
        """A request has ended: stop, length, cancelled, gone, or an error's class."""
        self._requests.labels(route, client, outcome).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it, as a scraper reads it."""
        return generate_latest(self._registry)


def _tokens(name: str, what: str, registry: CollectorRegistry) -> Counter:
    return Counter(f"codellama_tokens_{name}", f"Tokens {what}", ("client",), registry=registry)


def _seconds(name: str, what: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(f"codellama_{name}_seconds", what, ("route",), buckets=_SECONDS, registry=registry)


def _gauge(name: str, what: str, value: Callable[[], int], registry: CollectorRegistry) -> None:
    Gauge(f"codellama_requests_{name}", what, registry=registry).set_function(value)
