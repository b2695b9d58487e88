"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from script_engine import TEXT

from idlegrid.actors.llm.request import Finished, FinishReason, Tokens
from idlegrid.api.http.metrics import LlmMetrics

ASK = {"model": "script", "messages": [{"role": "user", "content": "Hi"}]}
NAME = {"model_name": "tests/script"}
ALL = len(TEXT.encode()) + 1


def samples(text: str) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


async def test_vllms_names_and_ours(llm):
    await llm.post("/v1/chat/completions", json=ASK | {"n": 2})
    await llm.post("/v1/chat/completions", json=ASK | {"max_tokens": 1, "stream": True})
    answer = await llm.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = samples(answer.text)
    assert value(found, "vllm:time_to_first_token_seconds_count", **NAME) == 3
    assert value(found, "vllm:inter_token_latency_seconds_count", **NAME) > 0
    assert value(found, "vllm:e2e_request_latency_seconds_count", **NAME) == 3
    assert value(found, "vllm:prompt_tokens_total", **NAME) == 27
    assert value(found, "vllm:generation_tokens_total", **NAME) == 2 * ALL + 1
    assert value(found, "vllm:request_success_total", finished_reason="stop", **NAME) == 2
    assert value(found, "vllm:request_success_total", finished_reason="length", **NAME) == 1
    assert value(found, "vllm:num_requests_running", **NAME) == 0
    assert value(found, "vllm:num_requests_waiting", **NAME) == 0
    assert value(found, "vllm:kv_cache_usage_perc", **NAME) == 0.25
    assert value(found, "vllm:gpu_cache_usage_perc", **NAME) == 0.25
    assert value(found, "vllm:prefix_cache_hits_total", **NAME) == 9
    assert value(found, "tokens_generated_total", model="tests/script", worker_id="") == 2 * ALL + 1
    assert value(found, "kv_cache_hit_rate", level="device") == 9 / 27
    for phase, count in (("prefill", 3), ("decode", 3), ("total", 3)):
        labels = {"model": "tests/script", "phase": phase, "worker_role": "hybrid"}
        assert value(found, "inference_latency_seconds_count", **labels) == count


async def test_an_engine_that_does_not_answer_hides_nothing(llm, engine):
    await llm.post("/v1/chat/completions", json=ASK)
    engine.closed = True
    found = samples((await llm.get("/metrics")).text)
    assert value(found, "vllm:generation_tokens_total", **NAME) == ALL


def test_tokens_count_for_the_worker_that_made_them():
    metrics = LlmMetrics()
    meter = metrics.started("m")
    meter.taken_by(0, "first")
    meter(0, Tokens(ids=(1,) * 5, text=""))
    meter.taken_by(0, "second")  # the first one was lost
    meter(0, Tokens(ids=(1,) * 7, text=""))
    meter.taken_by(1, "first")
    meter(1, Tokens(ids=(1,), text=""))
    found = samples(metrics.render().decode())
    assert value(found, "tokens_generated_total", model="m", worker_id="first") == 6
    assert value(found, "tokens_generated_total", model="m", worker_id="second") == 7
    assert value(found, "vllm:time_to_first_token_seconds_count", model_name="m") == 2


def test_times_are_measured_between_tokens():
    now = 100.0
    metrics = LlmMetrics(clock=lambda: now)
    meter = metrics.started("m")
    for now, count in ((101.0, 1), (101.5, 1), (102.5, 4)):  # noqa: B007 - read by the clock
        meter(0, Tokens(ids=(1,) * count, text=""))
    now = 103.0
    meter(0, Finished(reason=FinishReason.STOP, prompt_tokens=4, completion_tokens=6))
    found = samples(metrics.render().decode())
    assert value(found, "vllm:time_to_first_token_seconds_sum", model_name="m") == 1.0
    assert value(found, "vllm:inter_token_latency_seconds_sum", model_name="m") == 0.5 + 0.25
    assert value(found, "vllm:e2e_request_latency_seconds_sum", model_name="m") == 3.0
    assert value(found, "inference_latency_seconds_sum", model="m", phase="decode", worker_role="hybrid") == 2.0
