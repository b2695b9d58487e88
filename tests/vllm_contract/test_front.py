"""Our adapter on vLLM's real front (`AsyncLLM`, its output processor, its stop rules); only the model is played.

The core, which in truth is a process with a GPU, is a few lines here: each step gives every request one token.
"""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from vllm.v1.core.sched.utils import check_stop
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine import FinishReason as CoreReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request as CoreRequest
from vllm.v1.request import RequestStatus

from idlegrid.actors.llm.engine_face import EngineClosed
from idlegrid.actors.llm.request import Finished, FinishReason, Request, Sampling
from idlegrid.actors.llm.vllm_client import AsyncLlmClient
from idlegrid.actors.llm.vllm_engine import VllmEngine

CONTEXT = 512
VOCAB = 416


def token_at(position):
    """What the played model says at a place of a sequence."""
    return 20 + position * 7 % 60


class Core:
    """`EngineCoreClient`, as far as `AsyncLLM` asks it."""

    def __init__(self):
        self.requests = {}
        self.aborted = []
        self.resources = SimpleNamespace(engine_dead=False)
        self.taking = asyncio.Event()
        self.taking.set()
        self.work = asyncio.Event()

    async def get_supported_tasks_async(self):
        return ("generate",)

    async def add_request_async(self, request):
        self.requests[request.request_id] = CoreRequest.from_engine_core_request(request, None)
        self.work.set()
        await self.taking.wait()

    async def abort_requests_async(self, ids):
        self.aborted += ids
        for one in ids:
            self.requests.pop(one, None)

    async def get_output_async(self):
        while not self.requests:
            self.work.clear()
            await self.work.wait()
        await asyncio.sleep(0)
        if self.resources.engine_dead:
            raise RuntimeError("the core is dead")
        return EngineCoreOutputs(outputs=[self.step(request) for request in list(self.requests.values())])

    def step(self, request):
        token = token_at(request.num_tokens)
        request.append_output_token_ids(token)
        reason = None
        if check_stop(request, CONTEXT):
            del self.requests[request.request_id]
            stopped = request.status is RequestStatus.FINISHED_STOPPED
            reason = CoreReason.STOP if stopped else CoreReason.LENGTH
        wanted = request.sampling_params.logprobs
        return EngineCoreOutput(
            request.request_id,
            [token],
            new_logprobs=None if wanted is None else _logprobs(token, wanted),
            finish_reason=reason,
        )


def _logprobs(token, wanted):
    """The chosen token is the second most likely."""
    ids = [token, token + 1, token][: wanted + 1]
    values = [-1.0, -0.5, -1.0][: wanted + 1]
    return LogprobsLists(np.array([ids]), np.array([values]), np.array([2]))


class Front(AsyncLLM):
    """The real one without its processes; of its input processor only what needs a model's configuration is played."""

    def __init__(self, core):
        self.vllm_config = SimpleNamespace(cache_config=SimpleNamespace(kv_sharing_fast_prefill=False))
        self.model_config = SimpleNamespace(max_model_len=CONTEXT, get_vocab_size=lambda: VOCAB, dtype="torch.float32")
        self.scheduler_config = SimpleNamespace(max_num_queued_reqs=None, max_num_queued_tokens=None)
        self.renderer = SimpleNamespace(mm_processor_cache=None, shutdown=lambda: None)
        self.log_requests = self.log_stats = False
        self.logger_manager = self.admission_stats = self.output_handler = None
        self.output_processor = OutputProcessor(None, log_stats=False)
        self.engine_core = core
        self.input_processor = SimpleNamespace(
            process_inputs_async=self._process, assign_request_id=InputProcessor.assign_request_id
        )

    async def _process(self, request_id, prompt, params, *, priority, **_):
        params = params.clone()
        params.update_from_generation_config({"eos_token_id": 0}, 0)
        return EngineCoreRequest(
            request_id, prompt["prompt_token_ids"], None, params, None, 0.0, None, prompt.get("cache_salt"), None,
            priority=priority,
        )  # fmt: skip

    def shutdown(self, timeout=None):
        handler, self.output_handler = self.output_handler, None  # vLLM calls this once more when it is collected
        if handler is not None:
            handler.get_loop().call_soon_threadsafe(handler.cancel)


@pytest.fixture
async def engine(language_model, monkeypatch):
    monkeypatch.setattr("vllm.v1.engine.async_llm.extract_prompt_components", lambda *_: (None, None, None))

    def launch(folder, options, meter):
        client = AsyncLlmClient.__new__(AsyncLlmClient)
        client._llm = Front(Core())
        return client

    engine = VllmEngine(str(language_model.folder), launch=launch)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
def core(engine):
    return engine._loaded.client._llm.engine_core


async def ask(engine, sampling, **more):
    return await read(await engine.submit(Request(**{"id": "r", "prompt": (5, 6, 7), "sampling": sampling, **more})))


async def read(stream):
    async with asyncio.timeout(20):
        events = [event async for event in stream]
    assert [event for event in events if isinstance(event, Finished)] == events[-1:]
    return events[:-1], events[-1]


def ids(events):
    return tuple(token for event in events for token in event.ids)


def said(start, stop):
    return tuple(token_at(position) for position in range(start, stop))


async def until_idle(engine, core):
    async with asyncio.timeout(20):
        await asyncio.gather(*engine._tasks, return_exceptions=True)
    assert not core.requests
    assert not engine._loaded.client._llm.output_processor.request_states


async def test_tokens_text_and_counts(engine, core):
    events, end = await ask(engine, Sampling(max_tokens=9))
    assert ids(events) == said(3, 12)
    assert (end.reason, end.prompt_tokens, end.completion_tokens) == (FinishReason.LENGTH, 3, 9)
    assert "".join(event.text for event in events) + end.text
    await until_idle(engine, core)
    assert not core.aborted, "what has ended is not aborted"


async def test_known_tokens_are_prompt_there_and_answer_here(engine):
    events, end = await ask(engine, Sampling(max_tokens=9), known=said(3, 7))
    assert ids(events) == said(7, 12)
    assert (end.prompt_tokens, end.completion_tokens) == (3, 9)


async def test_a_stop_token_ends_it(engine):
    events, end = await ask(engine, Sampling(max_tokens=50, stop_token_ids=(token_at(8),)))
    assert ids(events) == said(3, 9)
    assert (end.reason, end.stop) == (FinishReason.STOP, token_at(8))


async def test_the_context_ends_it(engine):
    _, end = await ask(engine, Sampling(max_tokens=5000), prompt=(5,) * (CONTEXT - 4))
    assert (end.reason, end.completion_tokens) == (FinishReason.LENGTH, 4)


async def test_a_stop_string_ends_it_here_and_there(engine, core):
    events, _ = await ask(engine, Sampling(max_tokens=20))
    text = "".join(event.text for event in events)
    events, end = await ask(engine, Sampling(max_tokens=400, stop=(text[4:7],)))
    assert "".join(event.text for event in events) + end.text == text[: text.find(text[4:7])]
    assert end.reason is FinishReason.STOP
    await until_idle(engine, core)
    assert len(core.aborted) == 1


async def test_logprobs(engine):
    events, _ = await ask(engine, Sampling(max_tokens=3, logprobs=2))
    told = [p for event in events for p in event.logprobs]
    assert [(p.token, p.logprob) for p in told] == [(token, -1.0) for token in said(3, 6)]
    assert [p.top for p in told] == [((token + 1, -0.5), (token, -1.0)) for token in said(3, 6)]
    events, _ = await ask(engine, Sampling(max_tokens=3, logprobs=0))
    assert [p.top for event in events for p in event.logprobs] == [()] * 3


async def test_an_abort_frees_it(engine, core):
    stream = await engine.submit(Request(id="r", prompt=(5,), sampling=Sampling(max_tokens=400)))
    await anext(stream)
    engine.abort("r")
    assert (await read(stream))[1].reason is FinishReason.ABORTED
    await until_idle(engine, core)


async def test_an_abort_while_the_core_takes_it_frees_it_too(engine, core):
    core.taking.clear()
    stream = await engine.submit(Request(id="r", prompt=(5,), sampling=Sampling(max_tokens=400)))
    await asyncio.wait_for(core.work.wait(), 20)
    engine.abort("r")
    assert (await read(stream))[1].reason is FinishReason.ABORTED
    await until_idle(engine, core)


async def test_vllm_alone_leaves_a_request_behind_that_is_cancelled_while_the_core_takes_it(engine, core):
    """The control for the test above: why the adapter aborts once more. If this fails, it need not any longer."""
    core.taking.clear()
    outputs = engine._loaded.client.generate(
        {"prompt_token_ids": [5]}, {"max_tokens": 400, "detokenize": False}, "r", priority=0
    )
    reading = asyncio.create_task(anext(outputs))
    await asyncio.wait_for(core.work.wait(), 20)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert core.requests
    await engine._loaded.client.abort("r")
    assert not core.requests


async def test_a_deadline(engine, core):
    core.taking.clear()
    _, end = await ask(engine, Sampling(max_tokens=400), timeout=0.05)
    assert end.reason is FinishReason.TIMEOUT
    await until_idle(engine, core)


async def test_a_dead_core_ends_everybody(engine, core):
    streams = [await engine.submit(Request(id=f"{n}", prompt=(5,), sampling=Sampling(max_tokens=400))) for n in (1, 2)]
    await anext(streams[0])
    core.resources.engine_dead = True
    ends = [(await read(stream))[1] for stream in streams]
    assert {end.reason for end in ends} == {FinishReason.ERROR}
    with pytest.raises(EngineClosed, match="broken"):
        await ask(engine, Sampling())
