"""`idlegrid up --llm` and a deployment: the official client against the whole grid."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import httpx
import openai
import pytest

from idlegrid.api.client import GridClient

pytestmark = pytest.mark.slow


def test_a_grid_that_chats(start, language_model):
    model = str(language_model.folder)
    program = start("up", "--workers", "2", "--port", "0", "--llm", model, IDLEGRID_SCHEDULER_PORT="0")
    url = program.line(r"API +at (http://\S+)/v1", within=120)[1]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none yet", max_retries=0) as client:
        assert model in [one.id for one in client.models.list()]
        deadline, answer = time.monotonic() + 90, None
        while answer is None and time.monotonic() < deadline:
            time.sleep(0.2)  # who asks all the time takes the core on which the replica loads
            with suppress(openai.InternalServerError):  # 503: the replica loads
                answer = client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=6, temperature=0
                )
        assert answer is not None
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=6, temperature=0, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer.choices[0].message.content
        logprobs = client.completions.create(model=model, prompt="The", max_tokens=2, logprobs=1).choices[0].logprobs
        assert len(logprobs.tokens) == 2
    metrics = httpx.get(f"{url}/metrics").text
    assert "vllm:num_requests_running" in metrics
    assert re.search(r'tokens_generated_total\{model="[^"]+",worker_id="local-[01]"\} \d', metrics)
    split_in_two(url, model, answer.choices[0].message.content)
    program.stop()
    assert program.end() == 0


def split_in_two(url, model, answer):
    """The same model, deployed over HTTP in two stages in place of the service's own replica, says the same."""
    with GridClient(url) as grid:
        grid.deploy(model, stages=2, dtype="float32", device="cpu")
        deadline = time.monotonic() + 120
        while (told := grid.deployment(model))["state"] != "ready":
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        assert len({held["worker_id"] for held in told["coverage"]}) == 2
        assert told["missing"] == []
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "temperature": 0}
        said = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert said.json()["choices"][0]["message"]["content"] == answer, said.text
        grid.undeploy(model)
        while grid.deployments()["deployments"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
