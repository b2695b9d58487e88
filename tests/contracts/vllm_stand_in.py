"""What vLLM does, where there is no GPU for it: tokens chosen by another engine, told in vLLM's shapes.

It looks for no stop strings, makes no text, aborts when its generator is closed or cancelled, and ends a text with a
form by the end token, as vLLM. `tests/vllm` checks the real package for everything that this pretends.
"""

import asyncio
import itertools
from contextlib import aclosing
from types import SimpleNamespace

from idlegrid.actors.llm.engine_face import EngineClosed
from idlegrid.actors.llm.request import Finished, FinishReason, Request, Sampling
from idlegrid.actors.llm.threaded import Counts
from idlegrid.actors.llm.transformers_engine import TransformersEngine


class StandIn:
    """A `vllm_client.Client`; `launch` of `VllmEngine`."""

    def __init__(self, folder, options, meter):
        self.engine = TransformersEngine(
            folder, max_sequences=options.max_sequences, queue_limit=10**6, context=options.max_context
        )
        self.meter = meter
        self.context = options.max_context or 512
        self.vocab_size, self.dtype = 416, "float32"
        self.broken = False
        self.told = {}
        """id → what `generate` was asked for."""
        self.taking = asyncio.Event()
        """Set: requests are taken at once. Not set: taking lasts, and a request is registered while it does."""
        self.taking.set()
        self.heard = asyncio.Event()
        """Set: something was registered."""
        self.registered = set()
        self.aborted = []

    async def ready(self):
        await self.engine.start()

    def shutdown(self):
        asyncio.run(self.engine.close())
        self.broken = True

    async def abort(self, request_id):
        self.aborted.append(request_id)
        self.registered.discard(request_id)

    async def generate(self, prompt, sampling, request_id, *, priority):
        self.told[request_id] = (prompt, sampling, priority)
        if self.broken:
            raise EngineClosed("vLLM's own process has died; its log says more")
        self.registered.add(request_id)
        self.heard.set()
        await self.taking.wait()
        asked = _asked(prompt, sampling, request_id, priority)
        try:
            async with aclosing(self.engine.generate(asked)) as events:
                async for event in events:
                    self._measure()
                    for output in self._outputs(event, asked):
                        yield output
        finally:
            self.registered.discard(request_id)
            self._measure()

    def _measure(self):
        load = self.engine.load()
        self.meter.counts = Counts(load.running, load.waiting, load.kv_usage)

    def _outputs(self, event, asked):
        if not isinstance(event, Finished):
            # one at a time, so that the adapter sees every border
            for token, p in itertools.zip_longest(event.ids, event.logprobs):
                yield _output([token], p and [_position(p)])
            return
        if self.broken:
            raise EngineClosed("vLLM's own process has died; its log says more")
        formed = asked.sampling.json_schema is not None or asked.sampling.regex is not None
        end = [min(self.engine.facts.eos_ids)] if formed and event.reason is FinishReason.STOP else []
        yield _output(end, finish_reason=str(event.reason))


def _asked(prompt, fields, request_id, priority):
    fields = dict(fields)
    assert fields.pop("detokenize") is False
    form = fields.pop("structured_outputs", {})
    fields["logit_bias"] = fields["logit_bias"] or {}
    fields["stop_token_ids"] = tuple(fields["stop_token_ids"])
    sampling = Sampling(**fields, json_schema=form.get("json"), regex=form.get("regex"))
    return Request(id=request_id, prompt=tuple(prompt["prompt_token_ids"]), sampling=sampling, priority=priority)


def _position(p):
    """vLLM has a dict: the chosen token first, then the likeliest; ranks count from 1."""
    position = {p.token: SimpleNamespace(logprob=p.logprob, rank=1000)}
    for rank, (token, value) in enumerate(p.top, start=1):
        position[token] = SimpleNamespace(logprob=value, rank=rank)
    return position


def _output(ids, logprobs=None, finish_reason=None):
    completion = SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=finish_reason)
    return SimpleNamespace(outputs=[completion], finished=finish_reason is not None, num_cached_tokens=0)
