"""What the owner set is the most that the grid may take; what was left open, the grid may set."""

from __future__ import annotations

import pytest

from idlegrid.api.donor.remote import STRICTER, in_force, own_limits
from idlegrid.grid.config import load_settings
from idlegrid.grid.config.donor import LoadControl


@pytest.fixture
def loaded(tmp_path):
    def load(text=""):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_settings(path, environ={})

    return load


def test_nothing_said_anywhere(loaded):
    assert in_force(loaded(), {}) == loaded().settings
    assert own_limits(loaded()) == {}


def test_what_the_owner_left_open_the_grid_sets(loaded):
    limits = in_force(loaded(), {"max_concurrent_jobs": 3, "acceptance_rate": "0.5"}).load_control
    assert (limits.max_concurrent_jobs, limits.acceptance_rate) == (3, 0.5)


@pytest.mark.parametrize(
    ("key", "own", "remote", "then"),
    [
        ("max_concurrent_jobs", 2, 5, 2),
        ("max_concurrent_jobs", 2, 1, 1),
        ("max_jobs_per_hour", 10, 0, 10),
        ("max_jobs_per_hour", 0, 7, 7),
        ("max_jobs_per_hour", 10, 7, 7),
        ("acceptance_rate", 0.5, 1.0, 0.5),
        ("max_gpu_memory_percent", 50, 90, 50),
        ("time_zone", "Europe/Berlin", "UTC", "Europe/Berlin"),
    ],
)
def test_the_stricter_of_two(loaded, key, own, remote, then):
    assert getattr(in_force(loaded(f"load_control: {{{key}: {own}}}"), {key: remote}).load_control, key) == then


def test_hours_are_the_owner_s_as_a_whole(loaded):
    own = loaded("load_control: {working_hours_start: 22, working_hours_end: 6}")
    limits = in_force(own, {"working_hours_start": 0, "working_hours_end": 23, "time_zone": "UTC"}).load_control
    assert (limits.working_hours_start, limits.working_hours_end, limits.time_zone) == (22, 6, None)


@pytest.mark.parametrize(
    "remote",
    [
        {"max_concurrent_jobs": -1},
        {"max_concurrent_jobs": "many"},
        {"of_tomorrow": 1},
        {"working_hours_start": 3},
        {"acceptance_rate": 7, "max_jobs_per_hour": None},
    ],
)
def test_what_no_owner_could_set_is_left_out(loaded, remote):
    limits = in_force(loaded(), remote | {"max_gpu_memory_percent": 70}).load_control
    assert limits == LoadControl(max_gpu_memory_percent=70)


def test_every_limit_has_its_rule():
    """A new limit must say which of two values is the stricter one, or the grid could loosen what the owner set."""
    ruled = {*STRICTER, "working_hours_start", "working_hours_end", "schedule", "time_zone"}
    assert set(LoadControl.model_fields) <= ruled
