"""Who fails too often is not listened to, and nobody else."""

from __future__ import annotations

import pytest

from idlegrid.grid.lockout import FAILURES, FAILURES_OF_ADDRESS, MOST, SECONDS, Lockout, network_of

A, B = "192.0.2.1", "192.0.2.2"


def fail(lockout: Lockout, times: int, claimed: str = "w", address: str = A, now: float = 0.0) -> list[float]:
    return [lockout.failed(claimed, address, now) for _ in range(times)]


def test_five_in_a_row_lock_the_pair_for_a_quarter_of_an_hour_and_no_other():
    lockout = Lockout()
    assert fail(lockout, FAILURES) == [0.0] * FAILURES
    assert fail(lockout, 1, now=10) == [SECONDS - 10]
    assert fail(lockout, 1, address=B, now=10) == [0.0]
    assert fail(lockout, 1, claimed="other", now=10) == [0.0]
    assert fail(lockout, 1, now=SECONDS) == [0.0], "it unlocks by itself"


def test_failing_on_does_not_prolong_a_lock():
    lockout = Lockout()
    fail(lockout, FAILURES)
    fail(lockout, 50, now=SECONDS - 1)
    assert fail(lockout, FAILURES, now=SECONDS) == [0.0] * FAILURES


def test_a_success_ends_the_row():
    lockout = Lockout()
    fail(lockout, FAILURES - 1)
    lockout.succeeded("w", A)
    assert fail(lockout, FAILURES) == [0.0] * FAILURES
    lockout.succeeded("w", B)
    assert fail(lockout, 1)[0] > 0, "only for the pair that was right"


def test_an_administrator_unlocks_a_worker_from_everywhere():
    lockout = Lockout()
    for address in (A, B):
        fail(lockout, FAILURES, address=address, now=3)
        assert lockout.since("w", address) == 3
    lockout.unlock("w")
    assert [fail(lockout, 1, address=address) for address in (A, B)] == [[0.0], [0.0]]


def test_an_address_that_fails_for_everybody_is_not_listened_to():
    lockout = Lockout()
    told = [lockout.failed(f"w-{number}", A, 0.0) for number in range(FAILURES_OF_ADDRESS + 1)]
    assert told == [0.0] * FAILURES_OF_ADDRESS + [SECONDS]
    assert lockout.failed("w-1", B, 0.0) == 0.0


def test_a_clock_that_is_set_back_locks_nobody_out_for_longer():
    lockout = Lockout()
    for _ in range(FAILURES):
        lockout.failed("w-1", A, 1_000_000.0)
    assert lockout.failed("w-1", A, 1_000_000.0) == SECONDS
    assert lockout.failed("w-1", A, 1_000.0) == 0.0


def test_what_is_remembered_is_bounded():
    lockout = Lockout()
    for number in range(MOST + 10):
        lockout.failed(f"w-{number}", str(number), 0.0)
    assert len(lockout._pairs) == MOST


@pytest.mark.parametrize(
    ("address", "network"),
    [
        (A, A),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", A),
        ("", ""),
        (None, ""),
        ("no address", ""),
    ],
)
def test_whom_an_address_stands_for(address: str | None, network: str):
    assert network_of(address) == network
