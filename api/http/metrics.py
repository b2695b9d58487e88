"""Prometheus metrics of the doors for language models: vLLM's names, so that its dashboards work, and our own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ...actors.llm.engine_face import EngineLoad
from ...actors.llm.request import Event, Finished, Tokens
from .llm_face import ChatBackend

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that the backend has to say how busy it is."""
LEVEL = "device"
"""The one level of the KV cache that there is: the memory in which the engine computes."""
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_LATENCY = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
_MODEL = ("model_name",)


class LlmMetrics:
    """Everything that is counted, in a registry of its own (two services in one process don't mix)."""

    def __init__(self, *, clock: Callable[[], float] = perf_counter, worker_role: str = "hybrid") -> None:
        """`clock`: seconds. `worker_role`: of the workers behind the doors, until they are split into roles."""
        self.registry = registry = CollectorRegistry()
        self.clock, self.worker_role = clock, worker_role

        def histogram(name: str, what: str, buckets: tuple[float, ...], labels: tuple[str, ...] = _MODEL) -> Histogram:
            return Histogram(name, what, labels, buckets=buckets, registry=registry)

        def counter(name: str, what: str, labels: tuple[str, ...] = _MODEL) -> Counter:
            return Counter(name, what, labels, registry=registry)

        def gauge(name: str, what: str, labels: tuple[str, ...] = _MODEL) -> Gauge:
            return Gauge(name, what, labels, registry=registry)

        self.first_token = histogram("vllm:time_to_first_token_seconds", "From request to first token.", _TTFT)
        self.between = histogram("vllm:inter_token_latency_seconds", "Between two tokens of a choice.", _BETWEEN)
        self.whole = histogram("vllm:e2e_request_latency_seconds", "From request to its end.", _LATENCY)
        self.running = gauge("vllm:num_requests_running", "Requests that are computed.")
        self.waiting = gauge("vllm:num_requests_waiting", "Requests that wait.")
        self.kv_usage = gauge("vllm:kv_cache_usage_perc", "Share of the KV cache that is held, 0 to 1.")
        self.kv_usage_before = gauge("vllm:gpu_cache_usage_perc", "The same, under the name of older vLLM.")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.generated = counter("vllm:generation_tokens", "Tokens generated.")
        self.succeeded = counter("vllm:request_success", "Choices that ended.", ("model_name", "finished_reason"))
        self.asked_cache = counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.found_in_cache = counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.latency = histogram(
            "inference_latency_seconds", "Latency by phase.", _LATENCY, ("model", "phase", "worker_role")
        )
        self.tokens = counter("tokens_generated", "Tokens generated.", ("model", "worker_id"))
        self.hit_rate = gauge("kv_cache_hit_rate", "Share of prompt tokens found in the KV cache.", ("level",))
        self._looked_up = self._hit = 0

    def started(self, model: str) -> Meter:
        """A request has come in."""
        return Meter(self, model, self.clock())

    def look(self, loads: Mapping[str, EngineLoad]) -> None:
        """How busy the models are now."""
        for model, load in loads.items():
            self.running.labels(model).set(load.running)
            self.waiting.labels(model).set(load.waiting)
            self.kv_usage.labels(model).set(load.kv_usage)
            self.kv_usage_before.labels(model).set(load.kv_usage)

    def cache(self, model: str, asked: int, found: int) -> None:
        """A prompt of `asked` tokens was looked up in the prefix cache."""
        self.asked_cache.labels(model).inc(asked)
        self.found_in_cache.labels(model).inc(found)
        self._looked_up += asked
        self._hit += found
        self.hit_rate.labels(LEVEL).set(self._hit / max(1, self._looked_up))

    def render(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


@dataclass(slots=True)
class _Choice:
    """What was seen of one choice."""

    tokens: Counter
    """Counts those of the worker that computes it."""
    first: float | None = None
    last: float = 0.0


class Meter:
    """Measures one request. Call it with every event of its choices.

    Labels are looked up once a request, not once a token: that would cost more than all the rest of measuring.
    """

    def __init__(self, metrics: LlmMetrics, model: str, begun: float) -> None:
        self._metrics, self._model, self._begun = metrics, model, begun
        self._choices: dict[int, _Choice] = {}
        self._generated = metrics.generated.labels(model)
        self._between = metrics.between.labels(model)

    def taken_by(self, index: int, worker: str) -> None:
        """From now on `worker` (a donor's public id) computes choice `index`."""
        tokens = self._metrics.tokens.labels(self._model, worker)
        if (seen := self._choices.get(index)) is None:
            self._choices[index] = _Choice(tokens)
        else:
            seen.tokens = tokens

    def __call__(self, index: int, event: Event) -> None:
        """Choice `index` had an event."""
        now = self._metrics.clock()
        if index not in self._choices:
            self.taken_by(index, "")
        seen = self._choices[index]
        if isinstance(event, Tokens):
            self._tokens(seen, len(event.ids), now)
        else:
            self._finished(seen, event, now)

    def _tokens(self, seen: _Choice, count: int, now: float) -> None:
        self._generated.inc(count)
        seen.tokens.inc(count)
        if seen.first is None:
            seen.first = seen.last = now
            self._metrics.first_token.labels(self._model).observe(now - self._begun)
            self._phase("prefill", now - self._begun)
        elif count:
            self._between.observe((now - seen.last) / count)
            seen.last = now

    def _finished(self, seen: _Choice, event: Finished, now: float) -> None:
        metrics, model = self._metrics, self._model
        metrics.whole.labels(model).observe(now - self._begun)
        metrics.succeeded.labels(model, event.reason.value).inc()
        metrics.prompt_tokens.labels(model).inc(event.prompt_tokens)
        metrics.cache(model, event.prompt_tokens, event.cached_tokens)
        self._phase("total", now - self._begun)
        if seen.first is not None:
            self._phase("decode", now - seen.first)

    def _phase(self, phase: str, seconds: float) -> None:
        self._metrics.latency.labels(self._model, phase, self._metrics.worker_role).observe(seconds)


def metrics_router(metrics: LlmMetrics, backend: ChatBackend) -> APIRouter:
    """`GET /metrics`, bound to what it tells of."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics")
    async def prometheus() -> Response:
        """Prometheus metrics."""
        try:
            async with asyncio.timeout(PATIENCE):
                metrics.look(await backend.load())
        except Exception as error:  # noqa: BLE001 - what was counted here is told in any case
            log.warning("the models' load is not known: %r", error)
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})

    return router
