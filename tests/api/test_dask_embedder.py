"""The HTTP service's embedder over a real grid."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from idlegrid.api.dask_embedder import DaskEmbedder
from idlegrid.api.http.embedder import BadInput

pytestmark = pytest.mark.slow
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
async def embedder(grid):
    async with DaskEmbedder(grid.address) as embedder:
        yield embedder


async def test_vectors_are_those_of_the_grid(embedder, grid):
    answer = await embedder.embed(MINILM, ["a lease", [101, 2023, 102]])
    assert answer.vectors.shape == (2, 384)
    assert answer.tokens == [4, 3]
    [same] = grid.embed(["a lease"]).result(timeout=90)
    np.testing.assert_allclose(answer.vectors[0], same, atol=1e-2)


async def test_what_is_known_of_a_model_comes_with_its_first_use(embedder):
    models = await embedder.models()
    assert models[0].id == MINILM
    assert models[0].dimension is None
    assert "minilm" in models[0].aliases
    await embedder.embed(MINILM, ["a"])
    first, *rest = await embedder.models()
    assert (first.dimension, first.max_tokens, first.vocab_size) == (384, 256, 30522)
    assert {model.dimension for model in rest} == {None}


@pytest.mark.parametrize(
    ("bad", "what"), [("word " * 600, "has 602 tokens"), ([1, 99_999], "has the token id 99999"), ([], "has 0 tokens")]
)
async def test_a_bad_input_is_told_by_its_place(embedder, bad, what):
    with pytest.raises(BadInput, match=what) as caught:
        await embedder.embed(MINILM, ["fine", bad])
    assert caught.value.index == 1


async def test_a_call_that_is_given_up_leaves_nothing_behind(embedder, grid):
    await embedder.embed(MINILM, ["warm"])
    try:
        for name in ("local-0", "local-1"):
            grid.control(name, "pause")
        call = asyncio.create_task(embedder.embed(MINILM, ["nobody takes it"]))
        await _until(lambda: grid.state()["waiting_by_type"].get("embedding") == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await _until(lambda: not grid.state()["waiting_by_type"].get("embedding"))
    finally:
        for name in ("local-0", "local-1"):
            grid.control(name, "resume")


async def test_ready_says_why_not(embedder, grid):
    assert (await embedder.ready()).ok
    try:
        for name in ("local-0", "local-1"):
            grid.control(name, "pause")
        answer = await embedder.ready()
    finally:
        for name in ("local-0", "local-1"):
            grid.control(name, "resume")
    assert not answer.ok
    assert answer.reason.startswith("no worker takes work now: paused")


async def test_nobody_at_the_address():
    with pytest.raises(ConnectionError, match="'nowhere' is not the address of a scheduler"):
        async with DaskEmbedder("nowhere"):
            pass


async def _until(true, within=10):
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - what it waits for is in another process
            await asyncio.sleep(0.02)
