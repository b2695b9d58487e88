"""`idlegrid up --llm`: the official client against the whole grid."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import httpx
import openai
import pytest

pytestmark = pytest.mark.slow


def test_a_grid_that_chats(start, language_model):
    model = str(language_model.folder)
    program = start("up", "--workers", "2", "--port", "0", "--llm", model, IDLEGRID_SCHEDULER_PORT="0")
    url = program.line(r"API +at (http://\S+)/v1", within=120)[1]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none yet", max_retries=0) as client:
        assert model in [one.id for one in client.models.list()]
        deadline, answer = time.monotonic() + 90, None
        while answer is None and time.monotonic() < deadline:
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
    program.stop()
    assert program.end() == 0
