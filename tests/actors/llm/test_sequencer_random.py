"""Whatever an engine does, in whatever order: every page is right, every request ends once, every block comes back.

T1, T3 and T6 of the specification, without torch: the stage behind the sequencer remembers what its pages depend on.
"""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sequencer_drive import Drive, any_config

pytestmark = pytest.mark.slow


class SequencerMachine(RuleBasedStateMachine):
    """hypothesis chooses the operations and shrinks what fails; a drawn `random.Random` chooses the values."""

    drive: Drive | None = None

    @initialize(draw=st.randoms(use_true_random=False))
    def start(self, draw):
        self.drive = Drive(any_config(draw), draw)

    @rule()
    def add(self):
        self.drive.add()

    @rule()
    def fork(self):
        self.drive.fork()

    @rule()
    def propose(self):
        self.drive.propose()

    @rule()
    def schedule(self):
        self.drive.schedule()

    @rule()
    def compute(self):
        self.drive.compute()

    @rule()
    def update(self):
        self.drive.update()

    @rule()
    def step(self):
        self.drive.schedule()
        self.drive.compute()
        self.drive.update()

    @rule()
    def abort(self):
        self.drive.abort()

    @rule()
    def fail(self):
        self.drive.fail()

    @rule()
    def withdraw(self):
        self.drive.withdraw()

    @rule()
    def reset(self):
        self.drive.reset()

    @invariant()
    def books_agree(self):
        if self.drive is not None:
            self.drive.sequencer.check()

    def teardown(self):
        if self.drive is not None:
            self.drive.drain()


SequencerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSequencerMachine = SequencerMachine.TestCase

WEIGHTS = {"add": 6, "fork": 3, "propose": 2, "schedule": 1, "compute": 1, "update": 1, "abort": 1, "step": 12}
WEIGHTS |= {"withdraw": 1}
OPERATIONS = [name for name, weight in WEIGHTS.items() for _ in range(weight)]


def drive_at_random(seed, operations):
    draw = random.Random(seed)
    drive = Drive(any_config(draw), draw)
    for number in range(operations):
        name = "reset" if number == 250 else "fail" if number % 100 == 50 else draw.choice(OPERATIONS)
        for part in ("schedule", "compute", "update") if name == "step" else (name,):
            getattr(drive, part)()
            drive.sequencer.check()
    drive.drain()
    return drive


def test_ten_thousand_operations_leave_every_block_free():
    drives = [drive_at_random(seed, 500) for seed in range(20)]
    seen = sum((drive.seen for drive in drives), Counter())
    # all of it was at work, else the test says little
    assert seen["ended"] > 1_000
    hard = ("hits", "copies", "preempted", "guessed", "two in flight", "chunks follow", "background", "withdrawn")
    assert min(seen[what] for what in hard) > 50, seen
