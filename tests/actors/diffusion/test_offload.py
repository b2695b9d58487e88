"""Where weights are kept."""

from __future__ import annotations

import pytest

from idlegrid.actors.diffusion.offload import NoRoom, chosen

GB = 10**9
PARTS = [7 * GB, 2 * GB, GB]


@pytest.mark.parametrize(("free", "where"), [(24, "none"), (12, "model"), (6, "sequential"), (1, "sequential")])
def test_as_much_as_fits_is_on_the_gpu(free, where):
    assert chosen(PARTS, free * GB, allowed=True) == where


def test_an_owner_may_forbid_it():
    assert chosen(PARTS, 24 * GB, allowed=False) == "none"
    with pytest.raises(NoRoom, match=r"takes about 13\.6 GB .* 12\.0 GB are free; set gpu\.enable_cpu_offload"):
        chosen(PARTS, 12 * GB, allowed=False)
