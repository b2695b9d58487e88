"""Seven regions with a distance between any two."""

from __future__ import annotations

import itertools

import pytest

from idlegrid.grid.regions import (
    FARTHEST_NEARNESS,
    REGIONS,
    UnknownRegionError,
    check_region,
    distance,
    nearness,
    round_trip_ms,
)

PAIRS = list(itertools.product(REGIONS, repeat=2))


def test_the_seven_codes_are_those_of_the_contract():
    assert list(REGIONS) == [
        "asia-east", "asia-south", "europe-west", "europe-east", "america-north", "america-south", "oceania",
    ]  # fmt: skip
    assert all(region.code == code and region.name for code, region in REGIONS.items())


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_distance_is_symmetric_and_zero_only_at_home(a, b):
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0.0) == (a == b)
    assert 0.0 <= distance(a, b) <= 1.0


def test_nearness_falls_from_one_to_the_last_resort():
    by_distance = sorted(PAIRS, key=lambda pair: distance(*pair))
    values = [nearness(*pair) for pair in by_distance]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(FARTHEST_NEARNESS)
    assert all(nearness(None, code) == 1.0 for code in REGIONS)


def test_neighbours_are_near():
    def neighbours(home: str) -> list[str]:
        return sorted(REGIONS, key=lambda code: distance(home, code))[1:]

    assert neighbours("europe-west")[:2] == ["europe-east", "america-north"]
    assert neighbours("asia-east")[0] == "asia-south"
    assert neighbours("oceania")[0] == "asia-east"


@pytest.mark.parametrize("pair", [("europe", "oceania"), ("oceania", "europe"), ("oceana", "oceana")])
def test_an_unknown_code_is_refused_by_name(pair):
    with pytest.raises(UnknownRegionError, match=r"unknown region '(europe|oceana)'; known: asia-east, .*oceania\."):
        distance(*pair)
    with pytest.raises(UnknownRegionError, match="Did you mean 'oceania'"):
        check_region("oceana")
    assert check_region("oceania") == "oceania"


def test_round_trips_are_those_of_the_table():
    assert round_trip_ms("europe-west", "europe-east") == pytest.approx(40)
    assert round_trip_ms("oceania", "america-south") == pytest.approx(300)
    assert round_trip_ms("oceania", "oceania") == 0
    with pytest.raises(UnknownRegionError, match="unknown region 'mars'"):
        round_trip_ms("mars", "oceania")
