"""Round trips and bytes between regions."""

from __future__ import annotations

import math

from idlegrid.grid.layers.links import Links


def test_measured_before_typical():
    links = Links(
        inside_s=0.004, round_trips_s={("oceania", "asia-east"): 0.1}, bytes_s={("oceania", "asia-east"): 7.0}
    )
    assert links.round_trip_s("oceania", "asia-east") == links.round_trip_s("asia-east", "oceania") == 0.1
    assert links.round_trip_s("oceania", "oceania") == 0.004
    assert links.round_trip_s("europe-west", "europe-east") == 0.044
    assert links.bytes_per_second("oceania", "asia-east") == 7
    assert links.bytes_per_second("asia-east", "oceania") == math.inf
