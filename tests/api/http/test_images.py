"""The door for pictures: what is asked for, what comes back, errors in OpenAI's shape, and who is drawn together."""

from __future__ import annotations

import asyncio
import base64

import httpx
import openai
import pytest
from brush import BRUSH, Brush
from hash_embedder import HashEmbedder

from idlegrid.api.http import create_app
from idlegrid.api.http.embedder import Readiness
from idlegrid.grid.config import Settings

PATH = "/v1/images/generations"
ASKED = {"model": BRUSH.id, "prompt": "a fox"}


@pytest.fixture
def brush():
    return Brush()


@pytest.fixture
async def images(brush):
    settings = Settings.model_validate({"api": {"generation_timeout": 30}})
    transport = httpx.ASGITransport(create_app(HashEmbedder(), settings, painter=brush))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


def pictures(answer):
    return [base64.b64decode(one["b64_json"]).decode() for one in answer.json()["data"]]


async def test_the_defaults(images, brush):
    answer = await images.post(PATH, json={"prompt": "a fox"})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["size"], told["output_format"], len(told["data"])) == ("1024x1024", "png", 1)
    [(model, [wish])] = brush.calls
    assert (model, wish.prompt, wish.width, wish.steps, wish.negative_prompt) == (BRUSH.id, "a fox", 1024, None, None)
    assert told["data"][0]["seed"] == wish.seed < 2**32


async def test_each_picture_of_a_request_has_the_next_seed(images, brush):
    answer = await images.post(PATH, json={**ASKED, "n": 6, "size": "64x32", "seed": 2**63 - 3})
    expected = [(2**63 - 3 + number) % 2**63 for number in range(6)]
    assert pictures(answer) == [f"a fox 64x32 {seed}" for seed in expected]
    assert [one["seed"] for one in answer.json()["data"]] == expected
    assert max(len(wishes) for _, wishes in brush.calls) <= 4, "several workers may share them"


async def test_everything_that_is_known(images, brush):
    body = {**ASKED, "negative_prompt": "a dog", "steps": 7, "seed": 1, "size": "auto", "response_format": "b64_json"}
    body |= {"quality": "auto", "output_format": "png", "stream": False, "user": "u", "background": "opaque"}
    answer = await images.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    [wish] = brush.calls[0][1]
    assert (wish.negative_prompt, wish.steps, wish.seed) == ("a dog", 7, 1)


@pytest.mark.parametrize(
    ("changes", "param", "what"),
    [
        ({"response_format": "url"}, "response_format", "no URL of one"),
        ({"response_format": "jpeg"}, "response_format", "must be 'b64_json'"),
        ({"size": "large"}, "size", "such as `1024x768`"),
        ({"size": "100x100"}, "size", "multiple of 8"),
        ({"size": "4096x4096"}, "size", "more than 4,194,304 pixels"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"steps": 101}, "steps", "more than the 100"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": "x" * 10_001}, "prompt", "at most 10000 characters"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"quality": "hd"}, "quality", "not supported here"),
        ({"stream": True}, "stream", "not supported here"),
        ({"promt": "x"}, "promt", "Did you mean 'prompt'"),
        ({"prompt": "bad one"}, None, "can't do that: no such picture"),
    ],
)
async def test_what_is_wrong_is_told_by_name(images, changes, param, what):
    answer = await images.post(PATH, json=ASKED | changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert what in error["message"]


async def test_what_goes_wrong_is_the_servers_fault(images, brush):
    answer = await images.post(PATH, json=ASKED | {"prompt": "nan"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "image_failed")
    assert (await images.post(PATH, json=ASKED | {"model": "tests/none"})).status_code == 404
    brush.ready_answer = Readiness(False, "no worker that takes image_gen work is connected")
    answer = await images.post(PATH, json=ASKED | {"size": "64x64"})
    assert (answer.status_code, "no worker that takes image_gen" in answer.text) in [(503, True), (200, False)]


async def test_pictures_of_one_size_share_a_call(images, brush):
    brush.gate.clear()
    first = asyncio.create_task(images.post(PATH, json=ASKED | {"size": "64x64"}))
    await brush.wait_for_calls(1)
    prompts = ["two", "three", "bad four"]
    others = [asyncio.create_task(images.post(PATH, json=ASKED | {"size": "64x64", "prompt": one})) for one in prompts]
    large = asyncio.create_task(images.post(PATH, json=ASKED | {"size": "128x64"}))
    await brush.wait_for_calls(3)
    brush.gate.set()
    answers = await asyncio.gather(first, *others, large)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 200], "and one's wish fails no other"
    assert sorted(len(wishes) for _, wishes in brush.calls) == [1, 1, 3]


async def test_who_goes_away_is_not_drawn_for(images, brush):
    brush.gate.clear()
    asking = asyncio.create_task(images.post(PATH, json=ASKED | {"size": "64x64"}))
    await brush.wait_for_calls(1)
    asking.cancel()
    async with asyncio.timeout(60):
        await brush.given_up.wait()


async def test_the_official_client(brush):
    transport = httpx.ASGITransport(create_app(HashEmbedder(), Settings(), painter=brush))
    http = httpx.AsyncClient(transport=transport)
    async with openai.AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none", http_client=http) as client:
        made = await client.images.generate(
            model="gpt-image-1", prompt="a fox", n=2, size="512x512", extra_body={"seed": 5, "steps": 4}
        )
        assert [base64.b64decode(one.b64_json) for one in made.data] == [b"a fox 512x512 5", b"a fox 512x512 6"]
        assert (made.output_format, made.size) == ("png", "512x512")
        with pytest.raises(openai.BadRequestError, match="no URL of one") as refused:
            await client.images.generate(prompt="a fox", response_format="url")
        assert refused.value.param == "response_format"
        assert [one.id async for one in client.models.list()][-1] == BRUSH.id


async def test_what_takes_too_long_is_told_what_to_change(brush):
    brush.gate.clear()
    settings = Settings.model_validate({"api": {"generation_timeout": 0.05}})
    transport = httpx.ASGITransport(create_app(HashEmbedder(), settings, painter=brush))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        answer = await client.post(PATH, json={"prompt": "a fox"})
    assert answer.status_code == 504
    assert "1 of 1024x1024: ask for a smaller `size`, fewer `steps`" in answer.json()["error"]["message"]
