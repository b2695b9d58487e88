"""A gain must last."""

from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.layers.persistence import Persistence


@given(st.lists(st.booleans()), st.integers(1, 4))
def test_it_lasts_when_the_last_looks_all_found_it(looks, needed):
    seen = Persistence(needed)
    for better in looks:
        seen = seen.after(better)
    assert seen.lasts == (len(looks) >= needed and all(looks[-needed:]))
