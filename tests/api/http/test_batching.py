"""The pure queue: what goes out when, and that nothing is lost or doubled."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from idlegrid.api.http.batching import Batch, BatchLimits, BatchQueue, QueueFull

LIMITS = BatchLimits(max_batch=4, max_wait=1.0, max_in_flight=2, max_items=10, max_chars=1000)


@pytest.fixture
def queue() -> BatchQueue:
    return BatchQueue(LIMITS)


def test_a_lone_request_does_not_wait(queue: BatchQueue):
    ticket = queue.offer("m", [1], now=0)
    assert queue.take(now=0).parts == {ticket: [0]}
    assert queue.take(now=0) is None


def test_while_others_compute_a_batch_gathers_until_it_is_full(queue: BatchQueue):
    queue.offer("m", [1], now=0)
    queue.take(now=0)
    tickets = [queue.offer("m", [1], now=0.1) for _ in range(3)]
    assert queue.take(now=0.2) is None
    tickets.append(queue.offer("m", [1], now=0.2))
    assert list(queue.take(now=0.2).parts) == tickets


def test_or_until_the_oldest_has_waited_long_enough(queue: BatchQueue):
    queue.offer("m", [1], now=0)
    queue.take(now=0)
    queue.offer("m", [1], now=0.1)
    queue.offer("m", [1], now=0.9)
    assert queue.look_again_at() == pytest.approx(1.1)
    assert queue.take(now=1.0) is None
    assert len(queue.take(now=1.1)) == 2


def test_or_until_the_others_are_done(queue: BatchQueue):
    queue.offer("m", [1], now=0)
    first = queue.take(now=0)
    queue.offer("m", [1], now=0.1)
    queue.done(first, seconds=0.1)
    assert len(queue.take(now=0.1)) == 1


def test_no_more_batches_are_out_than_allowed(queue: BatchQueue):
    for _ in range(2):
        queue.offer("m", [1] * 5, now=0)
    out = [queue.take(now=0), queue.take(now=0)]
    assert [len(batch) for batch in out] == [4, 4]
    assert queue.take(now=99) is None
    assert queue.look_again_at() is None, "only an event can help"
    queue.done(out[0], seconds=1)
    assert len(queue.take(now=99)) == 2


def test_models_do_not_share_a_batch_nor_wait_for_each_other(queue: BatchQueue):
    queue.offer("m", [1], now=0)
    queue.offer("n", [1], now=0)
    assert {queue.take(now=0).group, queue.take(now=0).group} == {"m", "n"}


def test_a_small_request_is_not_kept_behind_a_large_one(queue: BatchQueue):
    queue.offer("m", [1] * 9, now=0)
    queue.take(now=0)
    small = queue.offer("m", [1], now=0)
    assert small in queue.take(now=0).parts


def test_a_full_queue_refuses_and_says_when_to_come_back(queue: BatchQueue):
    queue.offer("m", [1] * 8, now=0)
    with pytest.raises(QueueFull, match="8 inputs are waiting") as caught:
        queue.offer("m", [1] * 3, now=0)
    assert caught.value.retry_after > 0
    queue.offer("m", [1] * 2, now=0)


def test_a_queue_full_of_text_refuses_too(queue: BatchQueue):
    queue.offer("m", [600], now=0)
    with pytest.raises(QueueFull):
        queue.offer("m", [600], now=0)


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(queue: BatchQueue):
    queue.offer("m", [1] * 50, now=0)
    with pytest.raises(QueueFull):
        queue.offer("m", [1], now=0)


def test_what_is_withdrawn_is_not_computed(queue: BatchQueue):
    gone = queue.offer("m", [1, 1], now=0)
    stays = queue.offer("m", [1], now=0)
    queue.withdraw(gone)
    queue.withdraw(gone)
    assert queue.take(now=0).parts == {stays: [0]}
    assert queue.items == 0


def test_a_batch_is_done_once(queue: BatchQueue):
    queue.offer("m", [1], now=0)
    batch = queue.take(now=0)
    queue.done(batch, seconds=1)
    with pytest.raises(KeyError):
        queue.done(batch, seconds=1)


def test_a_request_without_inputs_is_refused(queue: BatchQueue):
    with pytest.raises(ValueError, match="at least one"):
        queue.offer("m", [], now=0)


class Machine(RuleBasedStateMachine):
    """In any order of events each input goes out exactly once, unless withdrawn; limits hold; nothing gets stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = BatchQueue(LIMITS)
        self.now = 0.0
        self.inputs: dict[int, int] = {}  # ticket → number of inputs
        self.taken: set[tuple[int, int]] = set()
        self.withdrawn: set[int] = set()
        self.out: list[Batch] = []

    @rule(group=st.sampled_from("mn"), sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12))
    def offer(self, group: str, sizes: list[int]) -> None:
        was_empty = self.queue.items == 0
        try:
            ticket = self.queue.offer(group, sizes, self.now)
        except QueueFull:
            assert not was_empty
        else:
            assert was_empty or self.queue.items <= LIMITS.max_items
            self.inputs[ticket] = len(sizes)

    @rule()
    def take(self) -> None:
        batch = self.queue.take(self.now)
        if batch is None:
            return
        assert 1 <= len(batch) <= LIMITS.max_batch
        for ticket, part in batch.parts.items():
            assert ticket not in self.withdrawn
            assert part == sorted(part)
            for index in part:
                assert index < self.inputs[ticket]
                assert (ticket, index) not in self.taken
                self.taken.add((ticket, index))
        self.out.append(batch)
        for group in "mn":
            assert sum(one.group == group for one in self.out) <= LIMITS.max_in_flight

    @precondition(lambda self: self.out)
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def done(self, data: st.DataObject, seconds: float) -> None:
        self.queue.done(self.out.pop(data.draw(st.integers(0, len(self.out) - 1))), seconds)

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.inputs)))
        self.queue.withdraw(ticket)
        self.withdrawn.add(ticket)

    @rule(seconds=st.floats(0.01, 2))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        self.queue.check_integrity()

    @invariant()
    def the_alarm_is_right(self) -> None:
        at = self.queue.look_again_at()
        if self.queue.items and at is None:
            waiting = {batch.group for batch in self.out}
            assert waiting, "inputs wait, nothing is out, and no time is set: they would wait for ever"

    def teardown(self) -> None:
        """Whatever happened: with time and finished batches everything that was not withdrawn goes out."""
        for _ in range(200):
            self.now += LIMITS.max_wait
            self.take()
            if self.out:
                self.queue.done(self.out.pop(), 0.1)
        expected = {(ticket, i) for ticket, n in self.inputs.items() if ticket not in self.withdrawn for i in range(n)}
        assert expected <= self.taken
        assert self.queue.items == 0


TestMachine = Machine.TestCase
TestMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
