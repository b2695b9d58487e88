"""One value changed in config.yaml: allowed, in force, and everything else as the owner wrote it."""

from __future__ import annotations

import stat

import pytest
import yaml

from idlegrid.api.donor.config_file import change, change_many, full_key, with_value
from idlegrid.api.donor.face import NotAllowed

WRITTEN = """\
# mine
name: attic   # the one upstairs
load_control:
  # at night
  max_concurrent_jobs: 2
  max_jobs_per_hour: 10  # enough

server: {url: "http://localhost:8000"}
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "cellar"),
        ("region", "oceania"),
        ("load_control.max_concurrent_jobs", 5),
        ("load_control.acceptance_rate", 0.5),
        ("server.url", "https://grid.example"),
        ("server.timeout", 10),
        ("gpu.device_id", 1),
        ("engines.llm.model_id", "a: b"),
        ("load_control.schedule", "mon-fri 18:00-08:00"),
        ("supported_types", ["llm", "embedding"]),
        ("load_control.max_jobs_per_hour", None),
    ],
)
@pytest.mark.parametrize("before", [WRITTEN, "", "# nothing\n", "load_control:\n", "load_control: {}\n", "name: a"])
def test_one_value_changes(before, key, value):
    after = with_value(before, key, value)
    wanted = yaml.safe_load(before) or {}
    place = wanted
    for name in key.split(".")[:-1]:
        place[name] = place.get(name) or {}
        place = place[name]
    place[key.split(".")[-1]] = value
    assert yaml.safe_load(after) == wanted
    if before == WRITTEN and not key.startswith("server."):
        assert "# mine" in after
        assert "# the one upstairs" in after
        assert "# at night" in after
        assert "# enough" in after


def test_a_change_is_checked_first(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(WRITTEN)
    with pytest.raises(ValueError, match="max_concurrent_jobs: 0 is not allowed") as refused:
        change(path, "max_concurrent_jobs", "0")
    assert "draft" not in str(refused.value)
    assert path.read_text() == WRITTEN
    assert list(tmp_path.iterdir()) == [path]


def test_a_change_is_in_force_and_nobody_else_s_to_read(tmp_path):
    path = tmp_path / "new" / "config.yaml"
    assert change(path, "max_concurrent_jobs", "3").settings.load_control.max_concurrent_jobs == 3
    assert change(path, "supported_types", "llm,embedding").settings.supported_types == ("llm", "embedding")
    assert change(path, "verify_ssl", "false").settings.server.verify_ssl is False
    assert change(path, "name", "007").settings.name == "007"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_hour_alone_means_from_or_until_midnight(tmp_path):
    path = tmp_path / "config.yaml"
    control = change(path, "working_hours_start", "22").settings.load_control
    assert (control.working_hours_start, control.working_hours_end) == (22, 0)
    control = change(path, "working_hours_end", "6").settings.load_control
    assert (control.working_hours_start, control.working_hours_end) == (22, 6)
    control = change(path, "working_hours_end", "none").settings.load_control
    assert (control.working_hours_start, control.working_hours_end) == (None, None)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("max_concurent_jobs", "Did you mean 'load_control.max_concurrent_jobs'"),
        ("load_control.acceptance_rat", "Did you mean 'load_control.acceptance_rate'"),
        ("model_id", "more than one setting"),
        ("zzz", "no setting is called 'zzz'"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(typed, hint):
    with pytest.raises(ValueError, match=hint):
        full_key(typed)


def test_several_change_together_or_none_does(tmp_path):
    path = tmp_path / "config.yaml"
    hours = {"load_control.working_hours_start": "22", "load_control.working_hours_end": "6"}
    control = change_many(path, hours | {"max_jobs_per_hour": "9"}).settings.load_control
    assert (control.working_hours_start, control.working_hours_end, control.max_jobs_per_hour) == (22, 6, 9)
    before = path.read_text()
    with pytest.raises(NotAllowed) as error:
        change_many(path, {"load_control.acceptance_rate": "0.5", "load_control.max_jobs_per_hour": "many"})
    assert list(error.value.refused) == ["load_control.max_jobs_per_hour"]
    with pytest.raises(NotAllowed) as error:
        change_many(path, {"load_control.working_hours_start": "", "load_control.working_hours_end": "7"})
    assert set(error.value.refused) == {"load_control.working_hours_start", "load_control.working_hours_end"}
    with pytest.raises(NotAllowed, match="Did you mean"):
        change_many(path, {"acceptance_rate": "0.5", "acceptance_rat": "1"})
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
