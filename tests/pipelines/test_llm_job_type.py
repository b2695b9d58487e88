"""The job type `llm`."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.llm.resident import llm_engine
from idlegrid.grid import catalogue
from idlegrid.grid.job_types import Cancelled, RunContext, job_type
from idlegrid.pipelines.llm_job import JOB_TYPE, LlmParams

HELLO = [{"role": "user", "content": "Hello"}]


def test_it_is_installed():
    assert job_type("llm") is JOB_TYPE


def test_the_defaults_are_the_contracts():
    params = LlmParams(prompt="x")
    sampling = params.sampling()
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (512, 0.7, 0.9, 0)
    assert (sampling.stop, params.stream) == ((), False)
    assert params.sampling().seed != sampling.seed
    assert LlmParams(prompt="x", seed=3, stop="a", top_k=5).sampling().seed == 3


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"prompt": "x", "messages": HELLO},
        {"prompt": ""},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x", "name": "Eve"}]},
        {"prompt": "x", "temperature": 2.5},
        {"prompt": "x", "top_p": 0},
        {"prompt": "x", "max_tokens": 0},
        {"prompt": "x", "seed": -1},
        {"prompt": "x", "n": 2},
    ],
)
def test_what_it_does_not_know_is_refused(params):
    with pytest.raises(ValidationError):
        LlmParams.model_validate(params)


def test_it_asks_for_its_model():
    ask = JOB_TYPE.ask(LlmParams(prompt="x", model="qwen2.5-7b"))
    assert (ask.type, ask.model) == ("llm", "Qwen/Qwen2.5-7B-Instruct")
    assert ask.gpu_memory_gb == catalogue.model("qwen2.5-7b").gpu_memory_gb
    assert JOB_TYPE.ask(LlmParams(prompt="x", model="/some/folder")).gpu_memory_gb == 0


@pytest.mark.slow
def test_a_job_runs_with_the_resident_engine(language_model):
    folder = str(language_model.folder)
    params = LlmParams(model=folder, messages=HELLO, max_tokens=8, temperature=0)
    result = JOB_TYPE.run(params)
    prompt = language_model.tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
    ids = language_model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    asked = Request(id="same", prompt=tuple(ids), sampling=Sampling(temperature=0, max_tokens=8))
    answer = llm_engine(folder).complete(asked).result(60)
    assert result.response == answer.text != ""
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (len(ids), answer.completion_tokens)
    assert result.usage.total_tokens == len(ids) + result.usage.completion_tokens
    assert JOB_TYPE.run(LlmParams(model=folder, prompt="Hello", max_tokens=8, temperature=0)) == result
    first = JOB_TYPE.run(LlmParams(model=folder, prompt="Hello", max_tokens=8, seed=5))
    assert JOB_TYPE.run(LlmParams(model=folder, prompt="Hello", max_tokens=8, seed=5)) == first


@pytest.mark.slow
def test_a_cancelled_job_stops_in_the_engine_and_gives_its_blocks_back(language_model):
    folder = str(language_model.folder)
    told: list[str] = []

    def slowly(text: str) -> None:
        told.append(text)
        time.sleep(0.05)  # so that the end is far away

    context = RunContext(cancelled=lambda: len(told) > 3, tokens=slowly)
    load = llm_engine(folder).engine.load
    params = LlmParams(model=folder, prompt="Hello", max_tokens=200, temperature=1.5, seed=1, stream=True)
    with pytest.raises(Cancelled):
        JOB_TYPE.run(params, context)
    deadline = time.monotonic() + 60
    while load().running or load().kv_usage:
        assert time.monotonic() < deadline, load()
        time.sleep(0.01)
    assert 3 < len(told) < 200


@pytest.mark.slow
def test_the_text_is_told_as_it_comes(language_model):
    told: list[str] = []
    params = LlmParams(model=str(language_model.folder), prompt="Hello", max_tokens=8, temperature=0, stream=True)
    result = JOB_TYPE.run(params, RunContext(tokens=told.append))
    assert "".join(told) == result.response != ""
