from __future__ import annotations

from pathlib import Path

from idlegrid.grid.config.time_zone import local_time_zone


def test_the_variable_wins_over_the_link(tmp_path: Path):
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert local_time_zone({}, link) == "Europe/Berlin"
    assert local_time_zone({"TZ": ":Asia/Tokyo"}, link) == "Asia/Tokyo"
    assert local_time_zone({"TZ": "no/where"}, link) == "Europe/Berlin"


def test_utc_where_nothing_names_a_zone(tmp_path: Path):
    assert local_time_zone({}, tmp_path / "missing") == "UTC"
