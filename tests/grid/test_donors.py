"""What an owner can't mean is refused where it is written."""

from __future__ import annotations

import math

import pytest

from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.regions import UnknownRegionError


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("acceptance_rate", (0.0, 0.09, 1.01, -1.0, math.nan)),
        ("max_concurrent_jobs", (0, -1)),
        ("max_jobs_per_hour", (-1,)),
        ("max_gpu_memory_percent", (0.0, 100.5, math.nan)),
        ("time_zone", ("Mars/Olympus", "", "Europe", "../etc/passwd")),
    ],
)
def test_limits_refuse_what_no_owner_can_mean(field, values):
    for value in values:
        with pytest.raises(ValueError, match=field):
            Limits(**{field: value})


@pytest.mark.parametrize("hours", [(24, 6), (22, 24), (-1, 6), (22, None), (None, 6), (22.5, 6)])
def test_working_hours_are_two_full_hours_or_none(hours):
    with pytest.raises(ValueError, match="working_hours"):
        Limits(working_hours_start=hours[0], working_hours_end=hours[1])


def test_the_message_has_field_value_and_what_is_allowed():
    with pytest.raises(ValueError, match=r"^acceptance_rate is 1\.5; allowed: 0\.1 to 1\.0$"):
        Limits(acceptance_rate=1.5)


def test_the_edges_are_allowed():
    Limits(acceptance_rate=0.1, max_gpu_memory_percent=100, working_hours_start=0, working_hours_end=23)
    Limits(working_hours_start=5, working_hours_end=5, time_zone="Asia/Kathmandu")


def test_a_donor_is_somewhere_and_its_score_is_one():
    with pytest.raises(UnknownRegionError, match="Did you mean 'europe-west'"):
        Donor(id="d", region="europe_west")
    with pytest.raises(ValueError, match="reliability"):
        Donor(id="d", reliability=1.2)
    with pytest.raises(ValueError, match="gpu_memory_gb"):
        Donor(id="d", gpu_memory_gb=-1)
