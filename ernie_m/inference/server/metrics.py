"""What GET /metrics says, in the form of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BATCH_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_BATCH_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server.

    Args:
        waiting: the number of texts in the queue.
    """

    def __init__(self, waiting: Callable[[], float]):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time, open files
        Gauge("ernie_m_queue_texts", "Texts that wait.", registry=registry).set_function(waiting)
        self.requests = Counter(
            "ernie_m_requests", "Requests, 499: the client left.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ernie_m_request_seconds", "Seconds of a request.", ["path"], registry=registry, buckets=_SECONDS
        )
        self.texts = Counter("ernie_m_texts", "Texts that the models read.", registry=registry)
        self.tokens = Counter("ernie_m_tokens", "Tokens of these texts.", registry=registry)
        self.batch_texts = Histogram(
            "ernie_m_batch_texts", "Texts of a batch.", registry=registry, buckets=_BATCH_TEXTS
        )
        self.batch_tokens = Histogram(
            "ernie_m_batch_tokens", "Tokens of a batch.", registry=registry, buckets=_BATCH_TOKENS
        )
        self.failed_batches = Counter("ernie_m_failed_batches", "Batches that failed.", registry=registry)

    def note_batch(self, texts: int, tokens: int, fault: BaseException | None) -> None:
        """Count a batch, and what it failed of."""
        self.batch_texts.observe(texts)
        self.batch_tokens.observe(tokens)
        if fault is None:
            self.texts.inc(texts)
            self.tokens.inc(tokens)
        else:
            self.failed_batches.inc()

    def note_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request to a path that the server has."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def page(self) -> bytes:
        """All figures."""
        return generate_latest(self.registry)
