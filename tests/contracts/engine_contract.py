"""What every LLM engine must do. A back end's test subclasses `EngineContract` and gives the fixture `make_engine`."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from idlegrid.actors.llm.engine_face import Engine, EngineClosed, EventStream, QueueFull
from idlegrid.actors.llm.request import Event, Finished, FinishReason, Request, RequestRefused, Sampling, Tokens

MakeEngine = Callable[..., Awaitable[Engine]]
GREEDY = Sampling(temperature=0, top_p=1.0, max_tokens=20)
DRAWN = Sampling(temperature=1.0, top_p=0.95, max_tokens=20, ignore_eos=True)
LONG = Sampling(temperature=1.0, max_tokens=400, ignore_eos=True)
"""So long that whatever ends it early is seen."""
PATIENCE = 30.0
"""Seconds after which something that should have come is missing."""

_numbers = itertools.count()


def request(prompt: Sequence[int], sampling: Sampling = GREEDY, **more: Any) -> Request:
    return Request(**{"id": f"r{next(_numbers)}", "prompt": tuple(prompt), "sampling": sampling, **more})


class Read:
    """A stream that was read to its end."""

    def __init__(self, events: list[Event]) -> None:
        assert [e for e in events if isinstance(e, Finished)] == events[-1:], (
            "not exactly one terminal event at the end"
        )
        self.tokens = [e for e in events if isinstance(e, Tokens)]
        self.end: Any = events[-1]
        self.ids = tuple(i for e in self.tokens for i in e.ids)
        self.text = "".join(e.text for e in self.tokens) + self.end.text
        self.logprobs = tuple(p for e in self.tokens for p in e.logprobs)


async def read(stream: EventStream) -> Read:
    async with asyncio.timeout(PATIENCE):
        return Read([event async for event in stream])


async def ask(engine: Engine, asked: Request) -> Read:
    return await read(await engine.submit(asked))


async def first_tokens(stream: EventStream) -> Tokens:
    async with asyncio.timeout(PATIENCE):
        event = await anext(stream)
    assert isinstance(event, Tokens)
    return event


async def assert_idle(engine: Engine) -> None:
    """Everything was given back. One more request passes first, as an abort takes effect within a step."""
    await ask(engine, request([5, 6], replace(GREEDY, max_tokens=2)))
    load = engine.load()
    assert (load.running, load.waiting, load.kv_usage) == (0, 0, 0.0)


class EngineContract:
    """A subclass gives `make_engine(max_sequences=…, queue_limit=…)`: started on `language_model` in fp32."""

    @pytest.fixture
    async def engine(self, make_engine: MakeEngine) -> Engine:
        return await make_engine()

    @pytest.fixture
    def prompts(self, language_model: Any) -> list[tuple[int, ...]]:
        texts = ["The quick brown fox", "17 + 25 =", "Größe 你好 🙂", "Привет", "the lazy dog jumps over " * 6, "a"]
        return [tuple(language_model.tokenizer(text)["input_ids"]) for text in texts]

    # -- tokens

    async def test_greedy_tokens_are_those_of_transformers(self, engine, language_model, prompts):
        answers = await asyncio.gather(*(ask(engine, request(prompt)) for prompt in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer.ids == language_model.greedy(prompt, 20)
        await assert_idle(engine)

    async def test_a_drawn_answer_is_the_same_alone_and_in_company(self, engine, prompts):
        kinds = [
            DRAWN,
            replace(DRAWN, top_k=20),
            replace(DRAWN, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2),
            replace(DRAWN, top_p=1.0, min_p=0.02),
        ]
        asked = [(prompt, kind) for prompt in prompts[:4] for kind in kinds]
        alone = [(await ask(engine, request(*one))).ids for one in asked]
        together = await asyncio.gather(*(ask(engine, request(*one)) for one in asked))
        assert [answer.ids for answer in together] == alone

    async def test_the_seed_decides(self, engine, prompts):
        seeds = (1, 1, 2, 3)
        answers = [(await ask(engine, request(prompts[0], replace(DRAWN, seed=seed)))).ids for seed in seeds]
        assert answers[0] == answers[1]
        assert len(set(answers)) == 3

    async def test_a_bias_forces_and_the_length_ends(self, engine, prompts):
        answer = await ask(engine, request(prompts[0], replace(GREEDY, logit_bias={77: 100.0}, max_tokens=7)))
        assert answer.ids == (77,) * 7
        assert (answer.end.reason, answer.end.completion_tokens) == (FinishReason.LENGTH, 7)
        assert answer.end.prompt_tokens == len(prompts[0])

    async def test_the_context_ends_an_answer(self, engine, prompts):
        prompt = (prompts[0] * engine.facts.context)[: engine.facts.context - 3]
        answer = await ask(engine, request(prompt, replace(GREEDY, ignore_eos=True)))
        assert (len(answer.ids), answer.end.reason) == (3, FinishReason.LENGTH)

    async def test_logprobs_are_of_the_chosen_tokens(self, engine, prompts):
        answer = await ask(engine, request(prompts[0], replace(GREEDY, logprobs=5)))
        assert [p.token for p in answer.logprobs] == list(answer.ids)
        for p in answer.logprobs:
            assert len(p.top) == 5
            assert p.top[0] == (p.token, p.logprob)
            assert 0 < sum(2.718281828**value for _, value in p.top) <= 1 + 1e-4
        assert not (await ask(engine, request(prompts[0]))).logprobs

    # -- text and stops

    async def test_the_text_is_that_of_the_tokens_and_never_breaks_a_character(self, engine, language_model, prompts):
        for seed, prompt in enumerate(prompts):
            answer = await ask(engine, request(prompt, replace(DRAWN, seed=seed, max_tokens=60)))
            before = language_model.tokenizer.decode(prompt, skip_special_tokens=True)
            whole = language_model.tokenizer.decode(prompt + answer.ids, skip_special_tokens=True)
            assert answer.text == whole[len(before) :]

    async def test_a_stop_string_ends_the_text_before_it_wherever_tokens_are_cut(self, engine, prompts):
        free = await ask(engine, request(prompts[0], replace(DRAWN, max_tokens=40)))
        for start, length in [(0, 1), (3, 5), (7, 2), (len(free.text) // 2, 9)]:
            stop = free.text[start : start + length]
            answer = await ask(engine, request(prompts[0], replace(DRAWN, max_tokens=40, stop=("never!", stop))))
            assert answer.text == free.text[: free.text.find(stop)]
            assert (answer.end.reason, answer.end.stop) == (FinishReason.STOP, stop)
            assert answer.ids == free.ids[: len(answer.ids)]
            assert answer.end.completion_tokens == len(answer.ids) <= len(free.ids)

    async def test_a_stop_token_ends_and_gives_no_text(self, engine, prompts):
        free = await ask(engine, request(prompts[0], DRAWN))
        token = free.ids[5]
        answer = await ask(engine, request(prompts[0], replace(DRAWN, stop_token_ids=(token,))))
        assert answer.ids == free.ids[: free.ids.index(token) + 1]
        assert (answer.end.reason, answer.end.stop) == (FinishReason.STOP, token)
        assert free.text.startswith(answer.text)

    async def test_nothing_stops_before_min_tokens(self, engine, prompts):
        eos = min(engine.facts.eos_ids)
        eager = replace(GREEDY, logit_bias={eos: 100.0}, max_tokens=20)
        assert (await ask(engine, request(prompts[0], eager))).ids == (eos,)
        later = await ask(engine, request(prompts[0], replace(eager, min_tokens=6)))
        assert (len(later.ids), later.ids[-1], later.end.reason) == (7, eos, FinishReason.STOP)
        assert eos not in later.ids[:-1]
        free = await ask(engine, request(prompts[0], DRAWN))
        early = replace(DRAWN, stop=(free.text[0],), min_tokens=DRAWN.max_tokens)
        assert len((await ask(engine, request(prompts[0], early))).ids) == DRAWN.max_tokens

    async def test_an_answer_has_the_form_that_was_asked_for(self, engine, prompts):
        matching = replace(DRAWN, regex=r"[A-Z][a-z]{3,6}( [0-9]{2})?\.", max_tokens=60, ignore_eos=False)
        answer = await ask(engine, request(prompts[0], matching))
        assert re.fullmatch(matching.regex, answer.text)
        assert answer.end.reason is FinishReason.STOP
        properties = {"name": {"type": "string", "maxLength": 5}, "ok": {"type": "boolean"}}
        schema = {"type": "object", "properties": properties, "required": ["name", "ok"], "additionalProperties": False}
        asked = request(prompts[1], replace(DRAWN, json_schema=json.dumps(schema), max_tokens=200, ignore_eos=False))
        assert set(json.loads((await ask(engine, asked)).text)) == {"name", "ok"}

    # -- going on after a failure

    async def test_an_answer_goes_on_after_known_tokens_as_if_nothing_had_happened(self, engine, prompts):
        kinds = [
            DRAWN,
            replace(GREEDY, ignore_eos=True, repetition_penalty=1.2),
            replace(DRAWN, regex="[a-zé ]{6,9}🙂[0-9]{1,30}", ignore_eos=False),
        ]
        for kind in kinds:
            whole = await ask(engine, request(prompts[2], kind))
            for cut in {0, 1, len(whole.ids) // 2, len(whole.ids) - 1, len(whole.ids)}:
                known = whole.ids[:cut]
                rest = await ask(engine, request(prompts[2], kind, known=known))
                assert known + rest.ids == whole.ids
                assert replace(rest.end, text="", cached_tokens=0) == replace(whole.end, text="", cached_tokens=0)
                given = (await self._text_after(engine, prompts[2], kind, cut)) if cut else ""
                assert given + rest.text == whole.text, cut

    async def _text_after(self, engine: Engine, prompt: tuple[int, ...], kind: Sampling, tokens: int) -> str:
        """What a client had read after so many tokens: the text of the events, without that of the terminal one."""
        answer = await ask(engine, request(prompt, replace(kind, max_tokens=tokens)))
        return "".join(event.text for event in answer.tokens)

    # -- refusals

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"prompt": ()}, "empty"),
            ({"prompt": (3, 10**6)}, "token id"),
            ({"prompt": (3,) * 100_000}, "100000 tokens"),
            ({"sampling": replace(GREEDY, temperature=2.5)}, "temperature"),
            ({"sampling": replace(GREEDY, top_p=0.0)}, "top_p"),
            ({"sampling": replace(GREEDY, max_tokens=0)}, "max_tokens"),
            ({"sampling": replace(GREEDY, stop=("",))}, "stop string"),
            ({"sampling": replace(GREEDY, logprobs=1000)}, "logprobs"),
            ({"sampling": replace(GREEDY, regex="(((")}, "regex"),
            ({"sampling": replace(GREEDY, json_schema="{nope")}, "json_schema"),
            ({"timeout": 0.0}, "timeout"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_what_can_t_be_served_is_refused_in_words_and_leaves_nothing(self, engine, change, message):
        with pytest.raises(RequestRefused, match=re.escape(message)):
            await engine.submit(replace(request([3, 4]), **change))
        await assert_idle(engine)

    async def test_an_id_that_lives_is_refused_and_can_be_used_again_after(self, engine, prompts):
        asked = request(prompts[0], LONG, id="twice")
        stream = await engine.submit(asked)
        with pytest.raises(RequestRefused, match="twice"):
            await engine.submit(asked)
        engine.abort("twice")
        assert (await read(stream)).end.reason is FinishReason.ABORTED
        assert (await ask(engine, replace(asked, sampling=GREEDY))).ids

    async def test_a_full_queue_refuses_and_opens_again(self, make_engine, prompts):
        engine = await make_engine(max_sequences=1, queue_limit=2)
        streams = [await engine.submit(request(prompts[0], LONG)) for _ in range(3)]
        with pytest.raises(QueueFull):
            await engine.submit(request(prompts[0]))
        engine.abort(streams[1].id)
        assert (await read(streams[1])).end.reason is FinishReason.ABORTED
        streams[1] = await engine.submit(request(prompts[0], LONG))
        load = engine.load()
        assert (load.running + load.waiting, load.queue_limit) == (3, 2)
        for stream in streams:
            engine.abort(stream.id)
        assert {(await read(stream)).end.reason for stream in streams} == {FinishReason.ABORTED}
        await assert_idle(engine)

    async def test_more_than_fit_at_once_all_get_their_own_answer(self, make_engine, language_model, prompts):
        engine = await make_engine(max_sequences=2, queue_limit=50)
        answers = await asyncio.gather(*(ask(engine, request(prompt)) for prompt in prompts * 2))
        assert [a.ids for a in answers] == [language_model.greedy(prompt, 20) for prompt in prompts] * 2

    # -- ends

    async def test_an_abort_at_any_moment_ends_in_one_event_and_frees(self, engine, prompts):
        at_once = await engine.submit(request(prompts[0], LONG))
        engine.abort(at_once.id)
        assert (await read(at_once)).end.reason is FinishReason.ABORTED
        begun = await engine.submit(request(prompts[4], LONG))
        await first_tokens(begun)
        engine.abort(begun.id)
        engine.abort(begun.id)
        end = (await read(begun)).end
        assert end.reason is FinishReason.ABORTED
        assert end.completion_tokens < LONG.max_tokens
        over = request(prompts[0])
        await ask(engine, over)
        engine.abort(over.id)
        engine.abort("never heard of")
        await assert_idle(engine)

    async def test_a_reader_who_leaves_frees(self, make_engine, prompts):
        engine = await make_engine(max_sequences=1, queue_limit=4)
        async with aclosing(engine.generate(request(prompts[0], LONG))) as events:
            async for _ in events:
                break
        running = asyncio.create_task(self._consume(engine, request(prompts[0], LONG)))
        waiting = asyncio.create_task(self._consume(engine, request(prompts[0], LONG)))
        async with await engine.submit(request(prompts[0], LONG)) as stream:
            running.cancel()
            waiting.cancel()
            await first_tokens(stream)  # its turn has come
        await assert_idle(engine)

    async def _consume(self, engine: Engine, asked: Request) -> None:
        async for _ in engine.generate(asked):
            pass

    async def test_time_runs_out_for_who_runs_and_for_who_waits(self, make_engine, prompts):
        engine = await make_engine(max_sequences=1, queue_limit=4)
        holder = await engine.submit(request(prompts[0], LONG))
        await first_tokens(holder)
        waiting = await engine.submit(request(prompts[0], GREEDY, timeout=0.02))
        late = await read(waiting)
        assert (late.end.reason, late.ids) == (FinishReason.TIMEOUT, ())
        await holder.aclose()
        running = await ask(engine, request(prompts[0], LONG, timeout=0.1))
        assert running.end.reason is FinishReason.TIMEOUT
        assert 0 < len(running.ids) == running.end.completion_tokens < LONG.max_tokens
        await assert_idle(engine)

    async def test_higher_priority_is_served_first(self, make_engine, prompts):
        engine = await make_engine(max_sequences=1, queue_limit=8)
        holder = await engine.submit(request(prompts[0], LONG))
        await first_tokens(holder)
        order: list[int] = []

        async def served(stream: EventStream, priority: int) -> None:
            await read(stream)
            order.append(priority)

        asked = [(await engine.submit(request(prompts[1], priority=priority)), priority) for priority in (0, 5, 1)]
        await holder.aclose()
        await asyncio.gather(*(served(*one) for one in asked))
        assert order == [5, 1, 0]

    async def test_the_end_of_the_engine_ends_every_request(self, make_engine, prompts):
        engine = await make_engine(max_sequences=2, queue_limit=8)
        streams = [await engine.submit(request(prompts[0], LONG)) for _ in range(5)]
        await first_tokens(streams[0])
        await engine.close()
        ends = [(await read(stream)).end for stream in streams]
        assert {end.reason for end in ends} == {FinishReason.ERROR}
        assert all("closed" in end.error for end in ends)
        with pytest.raises(EngineClosed):
            await engine.submit(request(prompts[0]))
        await engine.close()

    # -- words

    async def test_facts_say_what_is_served(self, engine, language_model):
        facts = engine.facts
        assert (facts.context, facts.vocab_size, facts.dtype) == (language_model.context, 416, "float32")
        assert facts.eos_ids == {language_model.tokenizer.eos_token_id}
        assert len(facts.revision) == 16
        assert facts.versions["torch"]

    async def test_a_conversation_is_encoded_by_the_models_template(self, engine, language_model):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "17 + 25 = <|end|>?"}]
        ids = engine.encode_chat(messages)
        assert engine.decode(ids) == "<|system|>Be brief.<|end|><|user|>17 + 25 = <|end|>?<|end|><|assistant|>"
        assert engine.encode("17 + 25") == tuple(language_model.tokenizer("17 + 25")["input_ids"])
        with pytest.raises(RequestRefused, match="unknown role poet"):
            engine.encode_chat([{"role": "poet", "content": "…"}])
