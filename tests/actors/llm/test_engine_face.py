import asyncio

import pytest

from idlegrid.actors.llm.engine_face import EventStream, joined
from idlegrid.actors.llm.request import Finished, FinishReason, TokenLogprob, Tokens

END = Finished(reason=FinishReason.LENGTH)


@pytest.fixture
def aborted() -> list[str]:
    return []


@pytest.fixture
async def stream(aborted: list[str]) -> EventStream:
    return EventStream("r", aborted.append)


async def test_what_came_meanwhile_is_one_event_and_the_end_is_its_own(stream, aborted):
    stream.put(Tokens(ids=(1,), text="a", logprobs=(TokenLogprob(1, -0.1),)))
    stream.put(Tokens(ids=(2, 3), text="bc", logprobs=(TokenLogprob(2, -0.2), TokenLogprob(3, -0.3))))
    stream.put(END)
    first, last = [event async for event in stream]
    assert (first.ids, first.text, [p.token for p in first.logprobs]) == ((1, 2, 3), "abc", [1, 2, 3])
    assert last is END
    await stream.aclose()
    assert aborted == []


async def test_a_reader_waits_for_what_comes(stream):
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.put(Tokens(ids=(1,), text="a"))
    assert (await reader).text == "a"


async def test_nothing_comes_after_the_end(stream):
    stream.put(END)
    stream.put(Tokens(ids=(1,), text="late"))
    stream.put(END)
    assert [event async for event in stream] == [END]


async def test_closing_early_aborts_once_and_ends_the_reader(stream, aborted):
    stream.put(Tokens(ids=(1,), text="a"))
    async with stream:
        await anext(stream)
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
    with pytest.raises(StopAsyncIteration):
        await waiting
    await stream.aclose()
    stream.put(END)
    assert aborted == ["r"]
    assert [event async for event in stream] == []


def test_joined_keeps_the_order():
    assert joined(Tokens(ids=(1,), text="a"), Tokens(ids=(2,), text="b")) == Tokens(ids=(1, 2), text="ab")
