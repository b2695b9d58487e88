"""The official client against a real server on loopback with a real engine: nothing in between is pretended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import openai
import pytest
import uvicorn
from hash_embedder import HashEmbedder
from language_model import LanguageModel

from idlegrid.actors.llm.resident import EngineThread
from idlegrid.actors.llm.torch_engine import TorchEngine, TorchOptions
from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "The quick brown fox"}]


@pytest.fixture(scope="module")
def engine(language_model: LanguageModel) -> Iterator[EngineThread]:
    options = TorchOptions(dtype="float32", num_blocks=256, max_sequences=16)
    thread = EngineThread(lambda: TorchEngine(str(language_model.folder), options))
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def url(engine: EngineThread) -> Iterator[str]:
    """The service on the engine's own loop, on a free port."""
    app = create_app(HashEmbedder(), Settings(), EngineBackend(engine.engine, aliases=["tiny"]))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none"))
    socket = server.config.bind_socket()
    socket.listen()  # from here on the kernel takes connections, whenever the server is up
    serving = engine.start(server.serve(sockets=[socket]))
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    serving.result(30)
    socket.close()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none yet", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **more):
    return client.chat.completions.create(
        **{"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 24, **more}
    )


def expected(language_model: LanguageModel, prompt: str, new: int) -> str:
    """What transformers' greedy generation says after the prompt."""
    ids = language_model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return language_model.tokenizer.decode(language_model.greedy(ids, new), skip_special_tokens=True)


def test_chat_says_what_transformers_says(client, language_model):
    answer = ask(client)
    prompt = language_model.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert answer.choices[0].message.content == expected(language_model, prompt, 24)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_and_ends_with_its_usage(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions_of_several_prompts(client, language_model):
    prompts = ["The quick brown", "17 + 25 ="]
    answer = client.completions.create(model="tiny", prompt=prompts, temperature=0, max_tokens=8)
    assert [choice.text for choice in answer.choices] == [expected(language_model, one, 8) for one in prompts]
    streamed = client.completions.create(model="tiny", prompt=prompts, temperature=0, max_tokens=8, stream=True)
    texts = ["", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


def test_a_seed_gives_the_same_choices_again_and_they_differ_from_each_other(client):
    first = [choice.message.content for choice in ask(client, n=3, seed=11, temperature=1).choices]
    again = [choice.message.content for choice in ask(client, n=3, seed=11, temperature=1).choices]
    assert first == again
    assert len(set(first)) == 3
    alone = ask(client, seed=11, temperature=1).choices[0].message.content
    assert alone == first[0]


def test_a_prompt_seen_before_is_found_in_the_cache(client):
    messages = [{"role": "user", "content": "The lazy dog jumps over the quick brown fox. " * 8}]
    first, again = ask(client, messages=messages), ask(client, messages=messages)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens >= again.usage.prompt_tokens - 32
    other = ask(client, messages=messages, extra_body={"cache_salt": "mine"})
    assert other.usage.prompt_tokens_details.cached_tokens == 0


def test_logprobs_of_greedy_tokens_are_the_highest(client):
    content = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert content
    for one in content:
        assert len(one.top_logprobs) == 3
        assert one.logprob == pytest.approx(one.top_logprobs[0].logprob)
        assert one.token == one.top_logprobs[0].token
        assert one.logprob <= 0
    told = client.completions.create(model="tiny", prompt="The", max_tokens=4, logprobs=2).choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)


def test_json_of_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "yes": {"type": "boolean"}},
        "required": ["n", "yes"],
        "additionalProperties": False,
    }
    answer = ask(
        client,
        temperature=1,
        seed=5,
        max_tokens=120,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert answer.choices[0].finish_reason == "stop"
    document = json.loads(answer.choices[0].message.content)
    assert document.keys() == {"n", "yes"}
    assert 0 <= document["n"] <= 99
    picked = ask(client, temperature=1, extra_body={"structured_outputs": {"choice": ["red", "green"]}})
    assert picked.choices[0].message.content in ("red", "green")


def test_a_schema_that_can_not_be_followed_is_refused(client):
    with pytest.raises(openai.BadRequestError):
        ask(client, extra_body={"structured_outputs": {"regex": "(unclosed"}})


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError, match="'tools'") as tools:
        ask(client, tools=[{"type": "function", "function": {"name": "f"}}])
    assert (tools.value.param, tools.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512") as long:
        ask(client, max_tokens=512)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        ask(client, model="tiny2")


def test_a_stream_that_is_dropped_leaves_nothing_running(client, engine):
    stream = ask(client, stream=True, max_tokens=480, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()

    async def idle() -> None:
        async with asyncio.timeout(10):
            while (load := engine.engine.load()).running or load.waiting:  # noqa: ASYNC110 - another thread's count
                await asyncio.sleep(0.005)

    engine.call(idle())


async def test_many_streams_at_once_each_say_their_own(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none yet") as client:

        async def one(seed: int, **more) -> str:
            stream = await client.chat.completions.create(
                model="tiny", messages=MESSAGES, seed=seed, max_tokens=16, stream=True, **more
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        together = await asyncio.gather(*(one(seed) for seed in range(24)))
        assert together[7] == await one(7)
        assert len(set(together)) > 12
