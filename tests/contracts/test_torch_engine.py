"""Our torch engine keeps the contract, whole, cut in stages, and with pages so few that it must preempt."""

import asyncio
from dataclasses import replace

import pytest
from engine_contract import GREEDY, EngineContract, ask, assert_idle, request

from idlegrid.actors.llm import torch_engine as module
from idlegrid.actors.llm.request import FinishReason
from idlegrid.actors.llm.torch_engine import TorchEngine, TorchOptions

pytestmark = pytest.mark.slow


@pytest.fixture
async def make_engine(language_model):
    engines = []

    async def make(**options):
        chosen = {"dtype": "float32", "max_sequences": 8, "queue_limit": 64, "num_blocks": 256, **options}
        engines.append(TorchEngine(str(language_model.folder), TorchOptions(**chosen)))
        await engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


class TestTorchEngine(EngineContract):
    async def test_stages_and_preemption_change_no_token(self, make_engine, language_model, prompts):
        engine = await make_engine(cuts=(1,), num_blocks=40, block_size=4, max_batched_tokens=16, chunk=None)
        answers = await asyncio.gather(*(ask(engine, request(prompt)) for prompt in prompts * 2))
        assert [answer.ids for answer in answers] == [language_model.greedy(prompt, 20) for prompt in prompts * 2]
        await assert_idle(engine)

    async def test_a_prompt_seen_before_is_found_in_the_cache(self, engine, language_model, prompts):
        long = prompts[4]
        first, again = await ask(engine, request(long)), await ask(engine, request(long))
        assert first.end.cached_tokens == 0
        assert again.end.cached_tokens == (len(long) - 1) // 16 * 16 > 0
        assert again.ids == first.ids == language_model.greedy(long, 20)

    async def test_nobody_finds_what_was_cached_for_another_tenant(self, engine, prompts):
        long = prompts[4]
        await ask(engine, request(long, salt="a"))
        assert (await ask(engine, request(long, salt="b"))).end.cached_tokens == 0

    async def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(
        self, make_engine, monkeypatch, language_model, prompts
    ):
        engine = await make_engine()
        forward = module.Stage.forward

        def fail_once(self, plan, x=None):
            monkeypatch.setattr(module.Stage, "forward", forward)
            raise RuntimeError("no memory")

        monkeypatch.setattr(module.Stage, "forward", fail_once)
        failed = await ask(engine, request(prompts[0]))
        assert (failed.end.reason, failed.end.error) == (FinishReason.ERROR, "the model failed: RuntimeError")
        assert (await ask(engine, request(prompts[0]))).ids == language_model.greedy(prompts[0], 20)
        await assert_idle(engine)

    async def test_log_probabilities_change_no_token(self, engine, prompts):
        plain = await ask(engine, request(prompts[0]))
        told = await ask(engine, request(prompts[0], replace(GREEDY, logprobs=3)))
        assert told.ids == plain.ids
        assert len(told.logprobs) == len(told.ids)
