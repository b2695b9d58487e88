"""How long is waited for another end, or for a step: floors where it is quick, more where it is known to be slow."""

import pytest

from idlegrid.actors.shards.allowance import FEWEST, LEAST, TIMES, Allowance
from idlegrid.actors.shards.leg import Pace, Pulse

PACE = Pace(beat=0.1, silence=0.5, patience=0.5, longest=5.0)


def beats_until_silent(pulse, now=100.0):
    for number in range(1, 1000):
        pulse.beat(now + number * PACE.beat)
        if pulse.silent:
            return number
    raise AssertionError("never")


def test_who_answers_at_once_is_missed_after_half_a_second():
    pulse = Pulse(PACE)
    pulse.connected(0.002)
    for number in range(100):
        assert pulse.beat(number * 0.1)
        pulse.answered(number * 0.1 + 0.001)
    assert beats_until_silent(pulse) == 6


@pytest.mark.parametrize(("slow", "beats"), [(0.05, 6), (0.3, 16), (0.8, 41), (3.0, 51)])
def test_who_was_slow_lately_is_given_more_time_up_to_a_limit(slow, beats):
    pulse = Pulse(PACE)
    pulse.beat(0.0)
    pulse.answered(slow)
    assert beats_until_silent(pulse) == beats


def test_a_way_that_takes_a_second_is_not_taken_for_silence():
    """The first word after the welcome comes ten beats after the question."""
    pulse, now = Pulse(PACE), 0.0
    pulse.connected(2.0)
    asked = None
    for _ in range(300):
        now += PACE.beat
        if pulse.beat(now):
            asked = now
        assert not pulse.silent
        if asked is not None and now - asked >= 1.0:
            pulse.answered(now)
            asked = None


def test_what_was_slow_once_is_forgotten():
    pulse = Pulse(PACE)
    pulse.connected(1.0)
    for number in range(1000):
        pulse.beat(number * 0.1)
        pulse.answered(number * 0.1 + 0.001)
    assert beats_until_silent(pulse, 200.0) == 6


def test_a_process_that_was_stopped_itself_counts_beats_and_not_the_clock():
    pulse = Pulse(PACE)
    pulse.connected(0.001)
    pulse.beat(0.0)
    pulse.beat(3600.0)
    assert not pulse.silent


def test_a_step_may_take_ten_times_what_steps_took():
    allowance = Allowance(30.0)
    assert allowance.of(1) == 30.0  # nothing is known yet
    for _ in range(FEWEST):
        allowance.took(1, 0.5)
    assert allowance.of(1) == TIMES * 0.5
    assert allowance.of(4) == 4 * TIMES * 0.5
    assert allowance.of(256) == 30.0


def test_quick_steps_leave_a_floor_and_one_slow_one_changes_little():
    allowance = Allowance(30.0)
    for _ in range(20):
        allowance.took(1, 0.01)
    allowance.took(1, 25.0)
    assert allowance.of(1) == LEAST
    assert allowance.of(64) == TIMES * 0.64


def test_steps_of_many_tokens_say_nothing_against_small_ones():
    allowance = Allowance(30.0)
    for _ in range(20):
        allowance.took(256, 1.0)
    assert allowance.of(1) == TIMES * 1.0
