"""A stage that remembers, instead of keys and values, everything that they would depend on.

What it writes for a position is a digest of the salt and of all tokens up to it, as attention's keys and values depend
on all that precedes. So one wrong page, one stale token, one block shared with the wrong sequence is seen before it is
read; and the "next token", a function of the last digest, is the right one only if every page behind it was.
"""

from functools import cache

from idlegrid.actors.llm.plan import Plan, Span
from idlegrid.actors.llm.request import Request
from idlegrid.actors.llm.sequencer import Accepted, Step

Digest = int
VOCABULARY = 50


def root(salt: str) -> Digest:
    return hash((len(salt), *salt.encode()))


def after(digest: Digest, token: int) -> Digest:
    return hash((digest, token))


def choose(digest: Digest) -> int:
    """The model's next token."""
    return digest % VOCABULARY


class Text:
    """Prompt and answer of a model that has the request alone, and the digest behind each token; made as asked."""

    def __init__(self, prompt: tuple[int, ...], salt: str) -> None:
        self._tokens = list(prompt)
        self._digests = [root(salt)]

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        self._extend(stop)
        return tuple(self._tokens[start:stop])

    def digests(self, stop: int) -> list[Digest]:
        """The digest before the first token, and behind each of the first `stop`."""
        self._extend(stop)
        return self._digests[: stop + 1]

    def _extend(self, stop: int) -> None:
        for position in range(len(self._digests) - 1, stop):
            if position == len(self._tokens):
                self._tokens.append(choose(self._digests[-1]))
            self._digests.append(after(self._digests[-1], self._tokens[position]))


text = cache(Text)


def answer(request: Request, count: int) -> tuple[int, ...]:
    """The first `count` tokens that the model generates for the request."""
    start = len(request.prompt)
    return text(request.prompt, request.salt).tokens(start, start + count)


class FakeStage:
    """Executes plans, strictly: pages that were never written, or were written for another text, are errors."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.pages: list[list[Digest | None]] = [[None] * block_size for _ in range(num_blocks)]
        self.last_step = -1
        self.computed = 0

    def run(self, step: Step) -> list[Accepted]:
        """Compute the step and verify its drafts greedily."""
        drafts = {row.span: row.draft for row in step.rows}
        assert step.plan.step > self.last_step
        self.last_step = step.plan.step
        self._copy(step.plan)
        logits: list[Digest] = []
        written: set[tuple[int, int]] = set()
        for index, (span, sequence) in enumerate(zip(step.plan.spans, step.sequences, strict=True)):
            if any(span is held for held in sequence.flights):
                value = self._expect(span, sequence.request, drafts.get(index, ()))
            else:  # ended, or behind a step that was lost: it must harm nobody
                value = -1
            values = self._write(span, value, written)
            logits += values[len(values) - span.logits :]
        assert len(logits) == step.plan.logits
        return [self._verify(row.draft, logits[row.first : row.first + 1 + len(row.draft)]) for row in step.rows]

    def _expect(self, span: Span, request: Request, draft: tuple[int, ...]) -> Digest:
        """Everything before the span is there and right, and so are its own tokens. Returns the digest before it."""
        known = span.stop - len(draft)
        assert known > span.start
        assert span.logits in (0, 1 + len(draft))
        right = text(request.prompt, request.salt)
        assert span.tokens == (*right.tokens(span.start, known), *draft)
        first, *digests = right.digests(span.start)
        assert self.read(span.blocks, span.start) == digests
        return digests[-1] if digests else first

    def _write(self, span: Span, value: Digest, written: set[tuple[int, int]]) -> list[Digest]:
        values = []
        for position, token in enumerate(span.tokens, start=span.start):
            value = after(value, token)
            block, offset = span.blocks[position // self.block_size], position % self.block_size
            assert (block, offset) not in written, "written twice in a step"
            written.add((block, offset))
            self.pages[block][offset] = value
            values.append(value)
        self.computed += len(values)
        return values

    def _verify(self, draft: tuple[int, ...], rows: list[Digest]) -> Accepted:
        tokens = [choose(rows[0])]
        for guess, value in zip(draft, rows[1:], strict=True):
            if guess != tokens[-1]:
                break
            tokens.append(choose(value))
        return Accepted(tuple(tokens))

    def read(self, blocks: tuple[int, ...], stop: int) -> list[Digest | None]:
        """What the pages hold for the first `stop` positions."""
        return [self.pages[blocks[p // self.block_size]][p % self.block_size] for p in range(stop)]

    def _copy(self, plan: Plan) -> None:
        targets = [copy.target for copy in plan.copies]
        assert len(set(targets)) == len(targets)
        for place, copy in enumerate(plan.copies):
            assert copy.source not in targets[:place], "the order of copies would matter"
        for copy in plan.copies:
            self.pages[copy.target] = list(self.pages[copy.source])
