"""Recordings that wait together: given up, late, refused, and at the service's end."""

from __future__ import annotations

import asyncio

import pytest
from ears import EAR, Ears

from idlegrid.actors.whisper.speech import Wish
from idlegrid.api.http.audio_batcher import AudioBatcher
from idlegrid.api.http.batch_driver import DeadlineExceeded
from idlegrid.api.http.batching import BatchLimits, QueueFull
from idlegrid.api.http.embedder import Unavailable

LIMITS = BatchLimits(max_batch=4, max_wait=0.001, max_in_flight=1, max_items=2, max_chars=100)


@pytest.fixture
def ears():
    ears = Ears()
    ears.gate.clear()
    return ears


@pytest.fixture
async def batcher(ears):
    batcher = AudioBatcher(ears, LIMITS)
    yield batcher
    await batcher.close()


def ask(batcher, content=b"a", within=60.0):
    return asyncio.create_task(batcher.transcribe(EAR.id, content, Wish(), within=within))


async def test_a_call_that_nobody_waits_for_is_cancelled(batcher, ears):
    asked = ask(batcher)
    await ears.wait_for_calls(1)
    asked.cancel()
    async with asyncio.timeout(60):
        await ears.given_up.wait()
    ears.gate.set()
    assert (await ask(batcher, b"next")).text == "next"


async def test_one_that_leaves_takes_nothing_from_its_neighbour(batcher, ears):
    first = ask(batcher, b"first")
    await ears.wait_for_calls(1)
    gone, stays = ask(batcher, b"gone"), ask(batcher, b"stays")
    await asyncio.sleep(0)
    gone.cancel()
    ears.gate.set()
    assert [(await first).text, (await stays).text] == ["first", "stays"]
    assert [files for _, files, _ in ears.calls] == [[b"first"], [b"stays"]]


async def test_a_full_queue_a_late_answer_and_the_end(batcher, ears):
    first = ask(batcher)
    await ears.wait_for_calls(1)
    waiting = [ask(batcher, within=60), ask(batcher, within=0.01)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await batcher.transcribe(EAR.id, b"c", Wish(), within=60)
    with pytest.raises(DeadlineExceeded):
        await waiting[1]
    await batcher.close()
    for one in (first, waiting[0], ask(batcher)):
        with pytest.raises(Unavailable, match="shutting down"):
            await one


async def test_an_answer_too_few_is_an_error_and_never_anothers(batcher, ears, monkeypatch):
    async def none(*_):
        return []

    monkeypatch.setattr(ears, "transcribe", none)
    with pytest.raises(RuntimeError, match="1 inputs gave 0 outcomes"):
        await ask(batcher)
