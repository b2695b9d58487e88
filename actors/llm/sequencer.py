"""Which tokens of which sequences the next step computes, and in which blocks: continuous batching, torch-free.

One formula, vLLM V1's: a sequence has `tokens` of which `computed` are done; each step hands out a budget of tokens so
that everybody catches up. Chunked prefill, prefix hits, drafts, preemption and retries only change these two numbers.

A sequence's life::

    add ──▶ WAITING ──admit──▶ PREFILL ──last known token──▶ DECODE ──stop, length──▶ FINISHED
                                ▲   └──────preempt─────┬───────┘                         ▲
                                └────admit── PREEMPTED ◀┘          abort, timeout: from anywhere

    tokens    p p p p p p p p p p k k g g g g        p prompt, k known, g generated
              ├──── computed ─────────────┤ ▲
    blocks    [   7   |   2   |   9   |   4   ]      the next span starts here; if 4 is shared, it is copied first

Nobody starves: ranks never change, the best one is always served, and a level of priority is worth `aging` seconds of
arrival and no more. But for `background` requests: those give their places, their blocks and their part of a step to
whoever is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Items

from .batch import NO_SHARE, Batch, Share
from .block_manager import BlockManager
from .deadlines import Deadlines
from .invariants import check
from .plan import Plan, Span
from .prefix import extra_keys
from .request import FinishReason, Request, RequestRefused
from .sequence import Line, Outcome, Phase, Sequence
from .sequencer_config import SequencerConfig
from .step import Accepted, Demand, Row, Stats, Step

__all__ = ["Accepted", "Outcome", "RequestRefused", "Row", "Sequencer", "SequencerConfig", "Stats", "Step"]


class Sequencer:
    """Plans steps for the stages of one model. Not thread-safe; no clock, no randomness, no I/O.

    `schedule` may be called again before `update`: the steps must be computed in their order. They hold different
    sequences, but for chunks of known tokens, which may follow each other before the first is computed.
    """

    def __init__(self, config: SequencerConfig) -> None:
        self.config = config
        self.blocks = BlockManager(config.num_blocks, config.block_size, prefix_cache=config.prefix_cache)
        self.waiting = Line()
        self.running = Line()
        self.in_flight: dict[int, Step] = {}
        self._live: dict[str, Sequence] = {}
        self._deadlines = Deadlines()
        self._over: list[Outcome] = []
        self._accepted = 0
        self._foreground_at = -math.inf
        self._steps = 0
        self._queried = self._hits = self._computed = self._preemptions = 0

    # ---- requests

    def add(self, request: Request, now: float) -> None:
        """Accept a request, or raise `RequestRefused`. `now`: seconds, of the same clock in all calls.

        With `known` tokens it goes on behind them; if they are as many as it may have, the next step tells its end.
        """
        self._enter(request, now, arrival=now)

    def fork(self, parent: str, request: Request, now: float) -> None:
        """Accept a request that shares what the request `parent` has computed of their common beginning, a last, partly
        filled block included: who writes it first copies it. For `n` answers to one prompt, once the first has begun.

        Without room to run at once it waits like any other. Raises KeyError if `parent` has ended, and as `add`.
        """
        source = self._live[parent]
        sequence = self._enter(request, now, arrival=source.arrival)
        if sequence.phase is Phase.WAITING and len(self.running) < self.config.max_sequences:
            self._share_pages(source, sequence)

    def propose(self, request_id: str, draft: tuple[int, ...]) -> None:
        """Guess the tokens that follow, for the next step to verify. Ignored unless the sequence decodes; cut to what
        fits. A guess never takes a block that somebody who runs may need."""
        sequence = self._live.get(request_id)
        if sequence is not None and sequence.phase is Phase.DECODE and not sequence.flights:
            sequence.draft = draft

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORTED) -> Outcome | None:
        """End a request now. Its blocks are free at once, or when the step that it is in lands. None if it has ended
        already (also if a step is yet to tell that)."""
        sequence = self._live.get(request_id)
        return None if sequence is None else self._finish(sequence, reason)

    # ---- steps

    def schedule(self, now: float, most: int | None = None) -> Step:
        """Plan the next step: first all who run, by rank, then new ones as budget and blocks allow. `most`: sequences
        in it, where several steps are to share them."""
        over, most = self.expire(now), most or self.config.max_sequences
        background = NO_SHARE if self._prompt_to_compute() else self._background_now(now)
        batch = self._fill(most, background)
        if not batch.spans and background is NO_SHARE and not self.in_flight:
            # Never while a step is in flight: chunk after chunk of a long prompt in the background would follow it, so
            # that its sequence is always in a step, and the blocks that the other one waits for are never free.
            batch = self._fill(most, self._background_now(now), preempted=batch.preempted)
        return self._seal(batch, over)

    def expire(self, now: float) -> tuple[Outcome, ...]:
        """Who ended without being computed: `schedule` tells it too; this is for while nothing can be computed."""
        over = (*self._over, *self._expire(now))
        self._over.clear()
        return over

    def wants(self, step: Step, row: Row) -> bool:
        """Whether the answer to a row of a step in flight is of use: its request lives, and no part of it was lost."""
        sequence, span = step.sequences[row.span], step.plan.spans[row.span]
        return sequence.phase is not Phase.FINISHED and sequence.holds(span)

    def update(self, step: Step, accepted: Items[Accepted]) -> tuple[Outcome, ...]:
        """The step was computed: `accepted` holds what was made of each of its rows. Returns who ended with it.

        Rows that nobody `wants` are ignored. Raises ValueError, with nothing changed, if the step is not in flight, the
        answers don't fit its rows, or an earlier step with one of its sequences is in flight.
        """
        if not step:
            return ()
        if self.in_flight.get(step.plan.step) is not step:
            raise ValueError(f"step {step.plan.step} is not in flight: it was updated before, or failed")
        step.check(accepted)
        del self.in_flight[step.plan.step]
        answers = iter(accepted)
        outcomes = []
        for span, sequence in zip(step.plan.spans, step.sequences, strict=True):
            answer = next(answers) if span.logits else None
            if not sequence.holds(span):
                sequence.void -= 1
                continue
            del sequence.flights[0]
            if sequence.phase is Phase.FINISHED:
                if not sequence.flights:
                    self.blocks.release(sequence)
            elif (reason := self._advance(sequence, span, answer)) is not None:
                outcomes.append(self._finish(sequence, reason))
        return tuple(outcomes)

    def fail(self, step: Step) -> None:
        """The step was lost. What it wrote is void, and what later steps in flight compute of its sequences: these are
        computed again from their tokens."""
        if self.in_flight.pop(step.plan.step, None) is not step:
            raise ValueError(f"step {step.plan.step} is not in flight: it was updated before, or failed")
        for span, sequence in zip(step.plan.spans, step.sequences, strict=True):
            if not sequence.holds(span):
                sequence.void -= 1
                continue
            sequence.void += len(sequence.flights) - 1
            sequence.flights.clear()  # later steps write its pages before others do that get them now
            if sequence.phase is Phase.FINISHED:
                self.blocks.release(sequence)
            else:
                self._preempt(sequence)

    def withdraw(self, step: Step) -> None:
        """The step was given up half-way: nothing of it counts, and who was in it goes on from where it was.

        Raises ValueError if it is not the last step in flight.
        """
        if self.in_flight.get(step.plan.step) is not step or step.plan.step != max(self.in_flight):
            raise ValueError(f"step {step.plan.step} is not the last one in flight: it can't be withdrawn")
        del self.in_flight[step.plan.step]
        for span, sequence in zip(step.plan.spans, step.sequences, strict=True):
            if not sequence.holds(span):
                sequence.void -= 1
                continue
            sequence.flights.pop()
            self._computed -= len(span.tokens) - max(0, span.logits - 1)
            if sequence.phase is Phase.FINISHED and not sequence.flights:
                self.blocks.release(sequence)

    def reset(self) -> None:
        """All pages are lost: steps in flight fail, everybody who runs is computed again, no prefix is remembered."""
        for step in list(self.in_flight.values()):
            self.fail(step)
        while len(self.running):
            self._preempt(self.running[-1])
        self.blocks.pool.forget_all()

    # ---- facts

    @property
    def has_work(self) -> bool:
        """There is something to schedule or to update."""
        return bool(self._live or self._over or self.in_flight)

    def demand(self, *, waiting: bool = True) -> Demand:
        """What the next step could hold. `waiting`: count those who wait to be admitted, too. O(sequences)."""
        decoding = [sequence for sequence in self.running if sequence.phase is Phase.DECODE]
        decoding_ready = sum(1 for sequence in decoding if sequence.ready)
        prompts = [s for s in self.running if s.phase is Phase.PREFILL and s.ready]
        prompts += self.waiting if waiting else ()
        most = self.config.chunk or self.config.max_batched_tokens
        tokens = sum(min(most, len(sequence.tokens) - sequence.scheduled) for sequence in prompts)
        return Demand(len(decoding), decoding_ready, len(prompts), decoding_ready + tokens)

    def cached_prefix(self, prompt: tuple[int, ...], salt: str = "") -> int:
        """Tokens of a prompt that would be found computed now: what a choice of replica goes by."""
        probe = self._sequence(Request(id="", prompt=prompt, salt=salt), now=0.0, arrival=0.0)
        return len(self.blocks.match(probe)) * self.config.block_size

    def check(self) -> None:
        """Raise `InvariantBroken` unless every block and every sequence is accounted for. O(blocks + sequences)."""
        check(self.blocks.pool, self.config.block_size, self.running, self.waiting, self.in_flight)

    def stats(self) -> Stats:
        """What it is doing now. O(sequences)."""
        held = self.config.num_blocks - self.blocks.pool.free
        empty = self.blocks.unused_slots(self.running)
        return Stats(
            waiting=len(self.waiting),
            running=len(self.running),
            kv_usage=held / self.config.num_blocks,
            kv_waste=empty / (held * self.config.block_size) if held else 0.0,
            prefix_queried_tokens=self._queried,
            prefix_hit_tokens=self._hits,
            computed_tokens=self._computed,
            preemptions=self._preemptions,
            steps=self._steps,
        )

    # ---- into and out of the lines

    def _sequence(self, request: Request, now: float, arrival: float) -> Sequence:
        return Sequence(
            request=request,
            rank=(request.background, arrival - request.priority * self.config.aging, self._accepted),
            extra=extra_keys(self.config.revision, request.salt),
            limit=min(len(request.prompt) + request.sampling.max_tokens, self.config.context),
            arrival=arrival,
            deadline=math.inf if request.timeout is None else now + request.timeout,
        )

    def _enter(self, request: Request, now: float, arrival: float) -> Sequence:
        self._refuse(request)
        if not request.background:
            self._foreground_at = now
        sequence = self._sequence(request, now, arrival)
        self._accepted += 1
        if len(sequence.tokens) >= sequence.limit:
            sequence.phase = Phase.FINISHED
            self._over.append(sequence.outcome(FinishReason.LENGTH))
            return sequence
        self._live[request.id] = sequence
        self.waiting.add(sequence)
        if request.timeout is not None:
            self._deadlines.watch(sequence)
        return sequence

    def _refuse(self, request: Request) -> None:
        if request.id in self._live:
            raise RequestRefused(f"a request with id {request.id!r} is alive already; ids must be unique")
        self.config.check(request)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> Outcome:
        running = sequence.phase in (Phase.PREFILL, Phase.DECODE)
        (self.running if running else self.waiting).remove(sequence)
        sequence.phase = Phase.FINISHED
        del self._live[sequence.id]
        if not sequence.flights:
            self.blocks.release(sequence)
        return sequence.outcome(reason)

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.blocks.release(sequence)
        sequence.phase = Phase.PREEMPTED
        sequence.preemptions += 1
        self._preemptions += 1
        self.waiting.add(sequence)

    def _expire(self, now: float) -> list[Outcome]:
        return [self._finish(sequence, FinishReason.TIMEOUT) for sequence in self._deadlines.over(now, self._live)]

    # ---- those who run

    def _background_now(self, now: float) -> Share:
        """What the background may have of a step: little while others come."""
        config = self.config
        if now - self._foreground_at >= config.quiet:
            return Share(config.max_sequences, config.max_batched_tokens)
        return Share(config.background_in_step, config.background_tokens_in_step)

    def _fill(self, most: int, background: Share, *, preempted: Items[str] = ()) -> Batch:
        decoding = [s.background for s in self.running if s.phase is Phase.DECODE and not s.flights]
        owed = min(most, decoding.count(False) + min(*background, decoding.count(True)))
        batch = Batch(self.config.max_batched_tokens, owed=owed, most=most, background=background)
        batch.preempted.extend(preempted)
        self._continue(batch)
        self._admit(batch)
        return batch

    def _prompt_to_compute(self) -> bool:
        """Whether somebody who is not in the background waits for a first token: a step for those who do is short."""
        if len(self.waiting) and not self.waiting[0].background:
            return True
        return any(s.phase is Phase.PREFILL and s.ready and not s.background for s in self.running)

    def _continue(self, batch: Batch) -> None:
        index = 0
        while index < len(self.running) and len(batch.spans) < batch.most:  # preemption takes only from behind `index`
            sequence = self.running[index]
            index += 1
            if not sequence.ready or (sequence.background and min(batch.background) < 1):
                continue
            draft: tuple[int, ...] = ()
            if sequence.phase is Phase.DECODE:
                batch.owed = max(0, batch.owed - 1)
                draft = self._cut_draft(sequence, batch) if sequence.draft else ()
            want = self._wanted(sequence, batch)
            if want < 1:
                continue
            room = self.blocks.room(sequence)
            while room < 1 and self._preempt_behind(index, batch):
                room = self.blocks.room(sequence)
            if room > 0:  # else it keeps what it has and waits for those before it, or for a step in flight
                self._plan(sequence, min(want, room), draft, batch)

    def _wanted(self, sequence: Sequence, batch: Batch) -> int:
        want = min(len(sequence.tokens) - sequence.scheduled, batch.left_for(sequence))
        return want if self.config.chunk is None else min(want, self.config.chunk)

    def _cut_draft(self, sequence: Sequence, batch: Batch) -> tuple[int, ...]:
        """As much of the guess as could be accepted, and as budget and spare blocks allow."""
        spare = max(0, self.blocks.pool.free - len(self.running) - self.config.watermark_blocks)
        slots = (len(sequence.blocks) + spare) * self.config.block_size - len(sequence.tokens)
        budget = batch.left_for(sequence)
        if self.config.chunk is not None:
            budget = min(budget, self.config.chunk)
        return sequence.draft[: max(0, min(slots, budget - 1, sequence.limit - len(sequence.tokens) - 1))]

    def _preempt_behind(self, index: int, batch: Batch, *, background: bool = False) -> bool:
        """Take the blocks of the last in rank, from `index` on, that is in no step. False if there is none.

        `background`: only of one that gives way.
        """
        for place in range(len(self.running) - 1, index - 1, -1):
            victim = self.running[place]
            if background and not victim.background:
                return False
            if not victim.flights:
                counted = victim.phase is Phase.DECODE and (min(batch.background) >= 1 or not victim.background)
                batch.owed = max(0, batch.owed - counted)
                self._preempt(victim)
                batch.preempted.append(victim.id)
                return True
        return False

    def _plan(self, sequence: Sequence, count: int, draft: tuple[int, ...], batch: Batch) -> None:
        """Put `count` tokens and the draft into the step; there is room for them."""
        copy = self.blocks.make_writable(sequence, sequence.scheduled + count + len(draft))
        if copy is not None:
            batch.copies.append(copy)
        span = batch.add(sequence, count, draft)
        sequence.flights.append(span)
        sequence.draft = ()
        self._computed += count

    def _seal(self, batch: Batch, over: tuple[Outcome, ...]) -> Step:
        plan = Plan(self._steps, tuple(batch.spans), tuple(batch.copies))
        step = Step(plan, tuple(batch.rows), over, tuple(batch.preempted), tuple(batch.sequences))
        if step:
            self.in_flight[self._steps] = step
            self._steps += 1
        return step

    # ---- those who wait

    def _admit(self, batch: Batch) -> None:
        """Admit the first in rank, and the next, until one finds no room: nobody overtakes it to take its blocks."""
        manager, size = self.blocks, self.config.block_size
        promised = self._promised()
        while len(self.waiting) and batch.lets_in(self.waiting[0]):
            sequence = self.waiting[0]
            found = manager.match(sequence)
            left = manager.pool.free - promised - manager.cost(sequence, found)
            enough = left >= (self.config.watermark_blocks if len(self.running) else 0)
            if not enough or len(self.running) >= self.config.max_sequences:
                if sequence.background or not self._preempt_behind(0, batch, background=True):
                    return
                promised = self._promised()
                continue
            self._start(sequence, found, len(found) * size)
            self._plan(sequence, self._wanted(sequence, batch), (), batch)
            promised += manager.missing(sequence)

    def _promised(self) -> int:
        """Blocks that those who run will want for what they know already."""
        return sum(self.blocks.missing(sequence) for sequence in self.running if sequence.phase is Phase.PREFILL)

    def _start(self, sequence: Sequence, shared: list[int], computed: int) -> None:
        """A waiting sequence begins to run, with blocks that were computed for others."""
        self.waiting.remove(sequence)
        self.blocks.attach(sequence, shared, computed)
        self.running.add(sequence)
        if sequence.phase is Phase.WAITING:
            sequence.cached_tokens = min(computed, len(sequence.request.prompt))
            self._queried += len(sequence.tokens)
            self._hits += computed
        sequence.phase = Phase.PREFILL

    def _share_pages(self, source: Sequence, sequence: Sequence) -> None:
        size = self.config.block_size
        most = min(source.computed, len(sequence.tokens) - 1) if source.extra == sequence.extra else 0
        pairs = zip(source.tokens[:most], sequence.tokens[:most], strict=True)
        common = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), most)
        if source.flights:
            common -= common % size  # a step is writing into its last block
        shared = source.blocks[: -(-common // size)]
        own = self.blocks.missing(sequence) - common // size
        if common and self.blocks.pool.free - own >= self.config.watermark_blocks:
            self._start(sequence, shared, common)

    # ---- what a step gave

    def _advance(self, sequence: Sequence, span: Span, answer: Accepted | None) -> FinishReason | None:
        """What the span computed counts now; rejected guesses are written over later. Returns why it ends, if so."""
        if answer is None:
            sequence.computed = span.stop
            self.blocks.register(sequence)
            return None
        sequence.computed = span.stop - span.logits + max(1, len(answer.tokens))
        sequence.tokens += answer.tokens
        sequence.phase = Phase.DECODE
        self.blocks.register(sequence)
        if answer.finish is None and len(sequence.tokens) >= sequence.limit:
            return FinishReason.LENGTH
        return answer.finish
