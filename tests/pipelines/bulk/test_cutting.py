import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.pipelines.bulk.cutting import SMALLEST_SECONDS, Span, cut
from idlegrid.pipelines.bulk.source import RowGroup

FILES = st.lists(
    st.lists(st.builds(RowGroup, st.integers(0, 5_000), st.integers(0, 10_000_000)), max_size=8), min_size=1, max_size=6
)


@given(
    files=FILES,
    rows_per_second=st.floats(0.1, 100_000),
    workers=st.integers(1, 50),
    unit_seconds=st.floats(0.01, 60),
    unit_rows=st.one_of(st.none(), st.integers(50, 5_000)),
)
def test_every_row_is_in_exactly_one_span_in_order(files, rows_per_second, workers, unit_seconds, unit_rows):
    options = {"rows_per_second": rows_per_second, "workers": workers, "unit_seconds": unit_seconds}
    if sum(group.rows for file in files for group in file) / max(1, rows_per_second * unit_seconds) > 2_000:
        unit_rows = unit_rows or 1_000
    spans = cut(files, **options, unit_rows=unit_rows)
    assert spans == cut(files, **options, unit_rows=unit_rows)
    for index, file in enumerate(files):
        position = 0
        for span in (one for one in spans if one.file == index and one.rows):
            assert span.start == position < span.stop
            position = span.stop
        assert position == sum(group.rows for group in file)


def test_no_rows_make_one_empty_span():
    assert cut([[], [RowGroup(0, 0)]], rows_per_second=10, workers=2, unit_seconds=5) == [Span(0, 0, 0, 0.0)]


def test_a_large_job_is_cut_by_seconds_and_ends_in_small_pieces():
    spans = cut([[RowGroup(1_000_000, 10**8)]], rows_per_second=250, workers=4, unit_seconds=10)
    assert spans[0].seconds == pytest.approx(10, rel=0.01)
    assert max(span.seconds for span in spans) <= 10 * 1.25
    assert SMALLEST_SECONDS * 0.9 <= spans[-2].seconds < 1.5


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_every_worker_gets_at_least_four_units_when_the_data_allows(workers):
    spans = cut([[RowGroup(1_000 * workers, 10**6)]], rows_per_second=250, workers=workers, unit_seconds=30)
    assert len(spans) >= 4 * workers


def test_small_row_groups_are_combined_whole():
    spans = cut([[RowGroup(100, 1_000)] * 100], rows_per_second=100, workers=1, unit_seconds=10)
    assert all(span.start % 100 == span.stop % 100 == 0 for span in spans if span.rows > 200)
    assert max(span.rows for span in spans) >= 900


def test_longer_texts_make_units_of_fewer_rows():
    long, short = RowGroup(10_000, 4_000_000), RowGroup(10_000, 400_000)
    spans = cut([[long], [short]], rows_per_second=100, workers=1, unit_seconds=10)
    assert spans[0].rows < 0.6 * next(span for span in spans if span.file == 1).rows


def test_unit_rows_is_exact():
    spans = cut([[RowGroup(250, 1)]], rows_per_second=1, workers=1, unit_seconds=10, unit_rows=100)
    assert [(span.start, span.stop) for span in spans] == [(0, 100), (100, 200), (200, 250)]


@given(rows=st.integers(1, 300), workers=st.integers(1, 8), speed=st.floats(0.2, 20))
def test_rows_that_are_computed_together_stay_together_and_everybody_has_work(rows, workers, speed):
    options = {"rows_per_second": speed, "workers": workers, "unit_seconds": 60}
    spans = cut([[RowGroup(rows, 10**6)]], smallest_rows=8, **options)
    assert sum(span.rows for span in spans) == rows
    least = min(8, -(-rows // (2 * workers)))
    assert all(span.rows >= least for span in spans[:-1])
    assert spans[-1].rows >= least // 2
    assert len(spans) >= min(rows, workers) or spans[0].seconds < 2 * SMALLEST_SECONDS
