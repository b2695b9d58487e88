import asyncio
from dataclasses import replace

import pytest
from engine_contract import GREEDY, LONG, EngineContract, ask, assert_idle, first_tokens, read, request

from idlegrid.actors.llm import transformers_engine as module
from idlegrid.actors.llm.engine_face import EngineClosed
from idlegrid.actors.llm.request import FinishReason
from idlegrid.actors.llm.transformers_engine import TransformersEngine

pytestmark = pytest.mark.slow


@pytest.fixture
async def make_engine(language_model):
    engines = []

    async def make(**options):
        engines.append(TransformersEngine(language_model.folder, **options))
        await engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        await engine.close()


class TestTransformersEngine(EngineContract):
    async def test_prompts_are_computed_in_chunks(self, make_engine, language_model, prompts):
        engine = await make_engine(chunk=7)
        assert (await ask(engine, request(prompts[4]))).ids == language_model.greedy(prompts[4], 20)

    async def test_a_request_that_fails_takes_no_other_with_it(self, make_engine, monkeypatch, language_model, prompts):
        engine = await make_engine()
        forward = module._Runner.forward

        def fail_for_one(self, sequence):
            if sequence.answer.request.id == "doomed":
                raise RuntimeError("no memory")
            return forward(self, sequence)

        monkeypatch.setattr(module._Runner, "forward", fail_for_one)
        doomed, fine = await asyncio.gather(
            ask(engine, request(prompts[0], id="doomed")), ask(engine, request(prompts[1]))
        )
        assert (doomed.end.reason, doomed.end.error) == (
            FinishReason.ERROR,
            "the model failed: RuntimeError",
        )
        assert fine.ids == language_model.greedy(prompts[1], 20)
        await assert_idle(engine)

    async def test_logits_that_are_no_numbers_end_their_request_in_an_error(self, make_engine, monkeypatch, prompts):
        engine = await make_engine()
        forward = module._Runner.forward

        def spoiled(self, sequence):
            logits = forward(self, sequence)
            return logits * float("nan") if sequence.answer.request.id == "doomed" else logits

        monkeypatch.setattr(module._Runner, "forward", spoiled)
        doomed, fine = await asyncio.gather(
            ask(engine, request(prompts[0], id="doomed")), ask(engine, request(prompts[1]))
        )
        assert doomed.end.reason is FinishReason.ERROR
        assert "no token can be chosen" in doomed.end.error
        assert fine.ids

    async def test_an_engine_that_breaks_ends_everybody_and_takes_nobody(self, make_engine, monkeypatch, prompts):
        engine = await make_engine(max_sequences=1)
        streams = [await engine.submit(request(prompts[0], LONG)) for _ in range(3)]
        await first_tokens(streams[0])

        def broken(*_):
            raise MemoryError("sampling")

        monkeypatch.setattr(module, "sample", broken)
        ends = [(await read(stream)).end for stream in streams]
        assert {end.reason for end in ends} == {FinishReason.ERROR}
        assert "MemoryError" in ends[0].error
        with pytest.raises(EngineClosed, match="broken"):
            await engine.submit(request(prompts[0]))

    async def test_nothing_is_taken_before_it_has_started(self, language_model, prompts):
        engine = TransformersEngine(language_model.folder)
        with pytest.raises(EngineClosed, match="not started"):
            await engine.submit(request(prompts[0]))
        with pytest.raises(EngineClosed, match="not started"):
            engine.facts  # noqa: B018
        await engine.close()

    async def test_a_model_in_bfloat16(self, make_engine, prompts):
        engine = await make_engine(dtype="bfloat16")
        assert engine.facts.dtype == "bfloat16"
        assert len((await ask(engine, request(prompts[0], replace(GREEDY, ignore_eos=True)))).ids) == 20
