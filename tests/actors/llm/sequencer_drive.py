"""Everything that an engine may do to a sequencer, in any order, against a model that knows how it must end."""

import random
from collections import Counter

from fake_stage import VOCABULARY, FakeStage, answer

from idlegrid.actors.llm.request import FinishReason, Request, Sampling
from idlegrid.actors.llm.sequence import Sequence
from idlegrid.actors.llm.sequencer import Accepted, Outcome, RequestRefused, Sequencer, SequencerConfig, Step


class Drive:
    """A sequencer, the fake stage behind it, and what was asked of them. `check` holds between any two calls."""

    def __init__(self, config: SequencerConfig, draw: random.Random) -> None:
        self.sequencer = Sequencer(config)
        self.stage = FakeStage(config.num_blocks, config.block_size)
        self.draw = draw
        self.now = 0.0
        self.alive: dict[str, Request] = {}
        self.accepted: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.planned: list[Step] = []
        """Steps that no stage computed yet, in order; only the first can be computed next."""
        self.computed: list[tuple[Step, list[Accepted]]] = []
        self.tokens: dict[str, Sequence] = {}
        """Sequences that were in a step, by request."""
        self.seen: Counter[str] = Counter()
        """How often what is hard was at work."""

    # ---- requests

    def request(self, prompt: tuple[int, ...]) -> Request:
        draw, limit = self.draw, self.sequencer.config.context - len(prompt)
        names = [*(name for name in self.accepted if name not in self.alive), f"r{len(self.accepted)}"]
        bare = Request(
            id=draw.choice(names),  # often an id that was used before
            prompt=prompt,
            sampling=Sampling(max_tokens=draw.randint(1, 24)),
            priority=draw.randint(-1, 2),
            background=draw.random() < 0.25,
            timeout=draw.choice((None, None, None, 15.0)),
            salt=draw.choice(("", "", "tenant")),
        )
        if limit < 1 or draw.random() < 0.7:
            return bare
        known = answer(bare, draw.randint(0, min(limit, bare.sampling.max_tokens)))
        return Request(**{name: getattr(bare, name) for name in bare.__slots__ if name != "known"}, known=known)

    def prompt(self) -> tuple[int, ...]:
        """Two tokens only, or an old prompt's beginning: many prompts begin like another."""
        longest = max(1, min(40, self.sequencer.config.context))
        old = self.draw.choice([request.prompt for request in self.alive.values()] or [()])
        start = old[: self.draw.randint(0, len(old))]
        return (*start, *(self.draw.randrange(2) for _ in range(self.draw.randint(1, longest))))[:longest]

    def add(self) -> None:
        self._accept(self.request(self.prompt()), None)

    def fork(self) -> None:
        parents = list(self.sequencer.running) or list(self.sequencer.waiting)
        if parents:
            parent = self.draw.choice(parents).request
            prompt = parent.prompt[: self.draw.choice((None, self.draw.randint(1, len(parent.prompt))))]
            self._accept(self.request(prompt), parent.id)

    def _accept(self, request: Request, parent: str | None) -> None:
        try:
            if parent is None:
                self.sequencer.add(request, self.now)
            else:
                self.sequencer.fork(parent, request, self.now)
        except RequestRefused:
            assert len(request.prompt) >= self.sequencer.config.context
        else:
            assert len(request.prompt) < self.sequencer.config.context
            self.alive[request.id] = request
            self.accepted[request.id] += 1

    def propose(self) -> None:
        """A guess, of which some part is right."""
        for name, request in self.alive.items():
            if self.draw.random() < 0.5:
                sequence = self.tokens.get(name)
                done = len(sequence.tokens) - len(request.prompt) if sequence else 0
                right = answer(request, done + 4)[done : done + self.draw.randint(0, 4)]
                wrong = tuple(self.draw.randrange(VOCABULARY) for _ in range(self.draw.randint(0, 3)))
                self.sequencer.propose(name, (*right, *wrong))

    def abort(self) -> None:
        name = self.draw.choice([*self.accepted, "never"])
        outcome = self.sequencer.abort(name)
        if outcome is not None:
            assert outcome.reason is FinishReason.ABORTED
            self._end(outcome)

    # ---- steps

    def schedule(self) -> Step:
        self.now += self.draw.choice((0.0, 1.0))
        alone = not self.sequencer.in_flight
        step = self.sequencer.schedule(self.now)
        for outcome in step.finished:
            self._end(outcome)
        for sequence in step.sequences:
            self.tokens[sequence.id] = sequence
        config = self.sequencer.config
        assert step.plan.tokens <= config.max_batched_tokens
        assert all(len(span.tokens) <= (config.chunk or config.max_batched_tokens) for span in step.plan.spans)
        assert len(self.sequencer.running) <= config.max_sequences
        if not alone and any(sequence.background for sequence in step.sequences):
            self.seen["background"] += 1
            waiting = self.sequencer.waiting
            assert not len(waiting) or waiting[0].background, "it waits, and others overtake it in the background"
        if step:
            self.planned.append(step)
        self.seen["copies"] += len(step.plan.copies)
        self.seen["preempted"] += len(step.preempted)
        self.seen["two in flight"] += len(self.planned) > 1
        return step

    def compute(self) -> None:
        if self.planned:
            step = self.planned.pop(0)
            results = self.stage.run(step)
            self.computed.append((step, results))
            self.seen["guessed"] += sum(len(result.tokens) > 1 for result in results)

    def update(self) -> None:
        """Any step that was computed, not always the first; but those of one sequence in their order."""
        if self.computed:
            step, results = self.computed[self.draw.randrange(len(self.computed))]
            mine = set(step.sequences)
            step, results = next(pair for pair in self.computed if mine & set(pair[0].sequences))
            if self.planned or any(mine & set(other.sequences) for other, _ in self.computed if other is not step):
                step, results = self.computed[0]
            self.computed = [pair for pair in self.computed if pair[0] is not step]
            self.seen["chunks follow"] += any(len(sequence.flights) > 1 for sequence in step.sequences)
            results = [self._cut(result) for result in results]
            for outcome in self.sequencer.update(step, results):
                self._end(outcome)

    def _cut(self, result: Accepted) -> Accepted:
        """Sometimes the engine finds a stop among the tokens, or ends the request for a reason of its own."""
        if self.draw.random() < 0.95:
            return result
        if self.draw.random() < 0.2:
            return Accepted((), FinishReason.ERROR)
        return Accepted(result.tokens[: self.draw.randint(1, len(result.tokens))], FinishReason.STOP)

    def fail(self) -> None:
        """A planned step never gets computed, or its results are lost."""
        steps = [*self.planned, *(step for step, _ in self.computed)]
        if steps:
            step = self.draw.choice(steps)
            self.planned = [other for other in self.planned if other is not step]
            self.computed = [pair for pair in self.computed if pair[0] is not step]
            self.sequencer.fail(step)

    def withdraw(self) -> None:
        """The last step is given up half-way: none of its pages is written, or all, which is as good as some."""
        if self.planned and not self.planned[-1].plan.copies:
            step = self.planned.pop()
            if not self.planned and self.draw.random() < 0.5:
                self.stage.run(step)
            self.sequencer.withdraw(step)
            self.seen["withdrawn"] += 1

    def reset(self) -> None:
        """The stage dies with all of its pages."""
        self.planned.clear()
        self.computed.clear()
        self.sequencer.reset()
        self.stage.pages = [[None] * self.stage.block_size for _ in self.stage.pages]

    # ---- ends

    def _end(self, outcome: Outcome) -> None:
        request = self.alive.pop(outcome.id)
        self.ended[outcome.id] += 1
        self.seen["ended"] += 1
        self.seen["hits"] += outcome.cached_tokens > 0
        assert outcome.prompt_tokens == len(request.prompt)
        assert outcome.cached_tokens <= outcome.prompt_tokens
        most = min(request.sampling.max_tokens, self.sequencer.config.context - len(request.prompt))
        assert outcome.completion_tokens <= most
        if outcome.reason is FinishReason.LENGTH:
            assert outcome.completion_tokens == most
        sequence = self.tokens.pop(outcome.id, None)
        if sequence is not None:
            given = tuple(sequence.tokens[len(request.prompt) :])
            assert given == answer(request, outcome.completion_tokens)

    def drain(self) -> None:
        """Let everybody finish; then nothing may be left."""
        bound = 100 + 50 * sum(len(request.prompt) + 24 for request in self.alive.values())
        while self.sequencer.has_work:
            step = self.schedule()
            assert step or step.finished or self.computed or self.planned, "stuck: nothing to do, yet not done"
            self.compute()
            self.update()
            self.sequencer.check()
            bound -= 1
            assert bound > 0, "it does not end"
        assert not self.alive
        assert self.ended == self.accepted
        assert self.sequencer.blocks.pool.free == self.sequencer.config.num_blocks
        self.sequencer.check()


def any_config(draw: random.Random) -> SequencerConfig:
    """Small enough to be short of everything."""
    sequences = draw.randint(1, 8)
    return SequencerConfig(
        num_blocks=draw.randint(2, 40),
        block_size=draw.choice((1, 2, 3, 4, 8, 16)),
        max_batched_tokens=draw.randint(sequences, 64),
        max_sequences=sequences,
        max_context=draw.choice((None, 30, 100)),
        chunk=draw.choice((None, 1, 5)),
        watermark=draw.choice((0.0, 0.01, 0.2)),
        prefix_cache=draw.random() < 0.85,
        background_in_step=draw.choice((1, 4)),
        background_tokens_in_step=draw.choice((1, 3, 32)),
        quiet=draw.choice((0.0, 10.0)),
    )
