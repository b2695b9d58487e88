"""A stage that remembers, instead of keys and values, everything that they would depend on.

What it writes for a position is a digest of the salt and of all tokens up to it, as attention's keys and values depend on
all that precedes. So one wrong page, one stale token, one block shared with the wrong sequence shows at once, and the
"next token", a function of the last digest, is the right one only if every page behind it was.
"""

from idlegrid.actors.llm.plan import Plan
from idlegrid.actors.llm.sequencer import Accepted, Step

Digest = int
VOCABULARY = 50


def after(digest: Digest, token: int) -> Digest:
    return hash((digest, token))


def digest(salt: str, tokens: tuple[int, ...]) -> Digest:
    value = root(salt)
    for token in tokens:
        value = after(value, token)
    return value


def root(salt: str) -> Digest:
    return hash((len(salt), *salt.encode()))


def choose(value: Digest) -> int:
    """The model's next token."""
    return value % VOCABULARY


def answer(prompt: tuple[int, ...], count: int, salt: str = "") -> tuple[int, ...]:
    """What the model generates for a prompt that has it alone."""
    value, tokens = digest(salt, prompt), list[int]()
    for _ in range(count):
        tokens.append(choose(value))
        value = after(value, tokens[-1])
    return tuple(tokens)


class FakeStage:
    """Executes plans, strictly: pages that were never written, or written for others, are errors."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.pages: list[list[Digest | None]] = [[None] * block_size for _ in range(num_blocks)]
        self.last_step = -1
        self.computed = 0
        self.salts: dict[str, str] = {}
        """Of each request, told by the test."""

    def run(self, step: Step) -> list[Accepted]:
        """Compute the step and verify its drafts greedily."""
        values = self.forward(step.plan, [self.salts.get(s.id, "") for s in step.sequences])
        results = []
        for row in step.rows:
            rows = values[row.first : row.first + 1 + len(row.draft)]
            tokens = [choose(rows[0])]
            for guess, value in zip(row.draft, rows[1:], strict=True):
                if guess != tokens[-1]:
                    break
                tokens.append(choose(value))
            results.append(Accepted(tuple(tokens)))
        return results

    def forward(self, plan: Plan, salts: list[str]) -> list[Digest]:
        """Digests behind the positions that want logits, in the order of the spans."""
        assert plan.step > self.last_step
        self.last_step = plan.step
        self._copy(plan)
        written: set[tuple[int, int]] = set()
        logits: list[Digest] = []
        for span, salt in zip(plan.spans, salts, strict=True):
            assert span.tokens
            assert span.logits <= len(span.tokens)
            values = self._earlier(span.blocks, span.start)
            value = values[-1] if values else root(salt)
            for position, token in enumerate(span.tokens, start=span.start):
                value = after(value, token)
                place = (span.blocks[position // self.block_size], position % self.block_size)
                assert place not in written, f"{place} is written twice in a step"
                written.add(place)
                self.pages[place[0]][place[1]] = value
                values.append(value)
            logits += values[len(values) - span.logits :]
            self.computed += len(span.tokens)
        return logits

    def read(self, blocks: tuple[int, ...], stop: int) -> list[Digest | None]:
        return [self.pages[blocks[p // self.block_size]][p % self.block_size] for p in range(stop)]

    def _earlier(self, blocks: tuple[int, ...], stop: int) -> list[Digest]:
        found = [value for value in self.read(blocks, stop) if value is not None]
        assert len(found) == stop, "reads a page that was never written"
        return found

    def _copy(self, plan: Plan) -> None:
        targets = [copy.target for copy in plan.copies]
        assert len(set(targets)) == len(targets)
        for place, copy in enumerate(plan.copies):
            assert copy.source not in targets[:place], "the order of copies would matter"
        taken = [list(self.pages[copy.source]) for copy in plan.copies]
        for copy, page in zip(plan.copies, taken, strict=True):
            self.pages[copy.target] = page
