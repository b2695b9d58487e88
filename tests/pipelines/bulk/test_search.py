import math

from hypothesis import given
from hypothesis import strategies as st

from idlegrid.pipelines.bulk.search import Search


def run(search, dies):
    """Probe until the search ends. `dies(start, stop)`. Returns the guilty row or None, and the number of probes."""
    probes = 0
    while search is not None and search.found is None:
        search = search.after(died=dies(*search.probe))
        probes += 1
    return (None if search is None else search.found), probes


@given(start=st.integers(0, 1000), rows=st.integers(1, 100_000), data=st.data())
def test_the_killer_is_found_within_the_promised_probes(start, rows, data):
    killer = data.draw(st.integers(start, start + rows - 1))
    found, probes = run(Search(start, start + rows), lambda first, stop: first <= killer < stop)
    assert found == killer
    assert probes <= math.ceil(math.log2(rows)) + 2


@given(rows=st.integers(2, 10_000), killers=st.sets(st.integers(0, 9_999), min_size=2, max_size=5))
def test_of_several_killers_one_is_found(rows, killers):
    killers = {killer % rows for killer in killers}
    found, _ = run(Search(0, rows), lambda first, stop: any(first <= killer < stop for killer in killers))
    assert found in killers


@given(rows=st.integers(1, 10_000), accident=st.integers(0, 20))
def test_one_accident_blames_nobody(rows, accident):
    count = iter(range(100))
    found, _ = run(Search(0, rows), lambda first, stop: next(count) == accident)
    assert found is None
