"""What a worker remembers of what was measured there."""

from idlegrid.grid.layers.measured import MOST, Measured
from idlegrid.grid.layers.speed import Source, Speed


def steps(read, layer_bytes=7, source=Source.MEASURED):
    return Speed(device="cpu", dtype="float32", source=source, read_bytes_s=read, layer_bytes=layer_bytes)


def test_a_speed_is_told_anew_only_when_it_says_more():
    measured = Measured()
    assert measured.heard(steps(1e9), 0.0)
    assert not measured.heard(steps(1.05e9), 1.0)
    assert measured.speeds(1.0) == (steps(1e9),)
    assert measured.heard(steps(1.2e9), 2.0)
    assert measured.speeds(2.0) == (steps(1.2e9),)


def test_steps_and_links_are_forgotten_and_trials_are_not():
    measured = Measured(stale=10.0)
    trial = steps(2e9, 0, Source.PROBED)
    measured.heard(trial, 0.0)
    measured.heard(steps(1e9), 0.0)
    measured.linked("b", 0.02, 0.0)
    assert measured.speeds(9.0) == (trial, steps(1e9))
    assert measured.links(9.0) == {"b": 0.02}
    measured.heard(steps(1e9), 9.0)
    assert (measured.speeds(18.0), measured.links(18.0)) == ((trial, steps(1e9)), {})
    assert measured.speeds(19.0) == (trial,)


def test_links_that_say_nothing_new_and_links_that_are_none():
    measured = Measured()
    assert measured.linked("b", 0.0004, 0.0)
    assert not measured.linked("b", 0.0011, 0.0), "less than a millisecond"
    assert measured.linked("b", 0.02, 0.0)
    assert not measured.linked("b", 0.024, 0.0)
    assert measured.links(0.0) == {"b": 0.02}
    assert not any(measured.linked(*wrong, 0.0) for wrong in (("", 0.1), ("c", -1.0), ("c", float("nan"))))


def test_only_so_many_are_remembered():
    measured = Measured()
    for number in range(MOST + 3):
        measured.linked(f"d{number}", 0.1, 0.0)
        measured.heard(steps(1e9, number + 1), 0.0)
    assert len(measured.links(0.0)) == len(measured.speeds(0.0)) == MOST
    assert "d0" not in measured.links(0.0)
