import random

import pytest
import torch

from idlegrid.actors.llm.kv import Pages
from idlegrid.actors.llm.mirror import Mirror, Slab
from idlegrid.actors.llm.plan import Span

BLOCK = 4


@pytest.fixture
def pages(tiny_shape):
    made = Pages(tiny_shape(), range(2), 600, BLOCK, torch.float32, torch.device("cpu"))
    made.data.normal_()
    return made


def span_at(start, table):
    return Span(start, (1,), table[: start // BLOCK + 1])


def equal_to_pages(row, span, pages):
    """The row's positions before the span are what the pages hold."""
    held = pages.data[:, list(span.blocks)].flatten(1, 2)[:, : span.start]
    keys = row.slab.keys[:, row.index, :, :, : span.start].permute(0, 3, 1, 2)
    values = row.slab.values[:, row.index, :, : span.start].transpose(1, 2)
    return torch.equal(keys, held[:, :, 0]) and torch.equal(values, held[:, :, 1])


def decode(mirror, spans, pages):
    """One step: find rows, and write the new position into row and page as attention does."""
    written = tuple(span.blocks[span.start // BLOCK] for span in spans)
    rows = {}
    for span in spans:
        row = mirror.find(span, written, rows)
        if row is not None:
            assert equal_to_pages(row, span, pages)
            rows[row] = span
    for span, block in zip(spans, written, strict=True):
        pages.data[:, block, span.start % BLOCK] = torch.randn(2, 2, 2, 8)
    for row, span in rows.items():
        row.slab.fit(max(span.stop for other, span in rows.items() if other.slab is row.slab))
        new = pages.data[:, span.blocks[span.start // BLOCK], span.start % BLOCK]
        row.slab.keys[:, row.index, :, :, span.start] = new[:, 0]
        row.slab.values[:, row.index, :, span.start] = new[:, 1]
    mirror.wrote(written, list(rows.items()))
    return rows


def test_a_row_is_filled_once_and_then_kept(pages, monkeypatch):
    mirror, table, filled, fill = Mirror(pages, 2048), tuple(range(20)), [], Slab.fill

    def counted(slab, index, content):
        filled.append(index)
        fill(slab, index, content)

    monkeypatch.setattr(Slab, "fill", counted)
    for start in range(9, 40):
        assert decode(mirror, [span_at(start, table)], pages)
    assert len(filled) == 1


def test_a_row_is_stale_once_another_wrote_its_blocks(pages):
    mirror, table = Mirror(pages, 2048), (5, 6, 7)
    decode(mirror, [span_at(9, table)], pages)
    pages.data[:, 5] = 0
    mirror.wrote((5,))
    decode(mirror, [span_at(10, table)], pages)


def test_the_control_who_does_not_tell_gets_the_old_row(pages):
    mirror, table = Mirror(pages, 2048), (5, 6, 7)
    decode(mirror, [span_at(9, table)], pages)
    pages.data[:, 5] = 0
    span = span_at(10, table)
    assert not equal_to_pages(mirror.find(span, (7,), {}), span, pages)


def test_a_row_that_outgrows_its_slab_moves(pages):
    mirror, table = Mirror(pages, 1 << 20), tuple(range(200))
    capacities = set()
    for start in range(250, 260):
        (row,) = decode(mirror, [span_at(start, table)], pages)
        capacities.add(row.slab.capacity)
    assert capacities == {256, 512}


def test_without_budget_there_is_no_row(pages):
    mirror = Mirror(pages, 255)
    assert mirror.find(span_at(9, (1, 2, 3)), (3,), {}) is None
    assert mirror.positions == 0


def test_the_budget_bounds_the_rows_and_the_idle_give_way(pages):
    mirror = Mirror(pages, 3 * 256)
    tables = [tuple(range(base, base + 10)) for base in range(0, 100, 10)]
    rows = decode(mirror, [span_at(9, table) for table in tables], pages)
    assert len(rows) == 3
    assert mirror.positions == 3 * 256
    assert len(decode(mirror, [span_at(9, tables[7])], pages)) == 1
    assert mirror.positions == 3 * 256


def test_stale_rows_are_zeroed_so_that_no_nan_gets_through_the_mask(pages):
    mirror = Mirror(pages, 256)
    (row,) = decode(mirror, [span_at(200, tuple(range(60)))], pages)
    row.slab.keys[:], row.slab.values[:] = torch.nan, torch.nan
    (row,) = decode(mirror, [span_at(8, (70, 71, 72))], pages)
    assert row.slab.keys.isfinite().all()
    assert row.slab.values.isfinite().all()


@pytest.mark.parametrize("seed", range(8))
def test_rows_equal_pages_whatever_happens(seed, pages):
    """Random life: sequences come, fork, decode in random batches, go back, end, and others get their blocks."""
    draw = random.Random(seed)
    mirror = Mirror(pages, draw.choice((256, 2048, 8192)))
    free, live = list(range(600)), []
    for _ in range(300):
        event = draw.random()
        if event < 0.2 and len(free) > 80:
            draw.shuffle(free)
            table, free = tuple(free[:80]), free[80:]
            start = draw.randrange(1, 300)
            mirror.wrote(table[: start // BLOCK + 1])  # its prompt
            pages.data[:, list(table[: start // BLOCK + 1])] = torch.randn(2, start // BLOCK + 1, BLOCK, 2, 2, 8)
            live.append([table, start])
        elif event < 0.3 and live:
            free += live.pop(draw.randrange(len(live)))[0]
        elif event < 0.4 and live:
            live[0][1] = draw.randrange(1, live[0][1] + 1)  # a draft was refused, or replay
        elif event < 0.5 and live:
            block = draw.choice(live[0][0][:40])  # computed anew, or loaded from elsewhere
            pages.data[:, block] = torch.randn(2, BLOCK, 2, 2, 8)
            mirror.wrote((block,))
        elif live:
            batch = draw.sample(live, draw.randint(1, len(live)))
            decode(mirror, [span_at(start, table) for table, start in batch], pages)
            for sequence in batch:
                sequence[1] = min(sequence[1] + 1, 319)
        for slab in mirror._slabs.values():
            if draw.random() < 0.1 and slab.owners:
                slab.compact(draw.sample(range(len(slab.owners)), draw.randint(1, len(slab.owners))))


def test_a_slab_that_grows_wider_lets_go_of_idle_rows_and_of_none_that_the_step_has(pages):
    mirror = Mirror(pages, 1 << 20)
    crowd = [tuple(range(base, base + 9)) for base in range(100, 500, 9)]
    assert len(decode(mirror, [span_at(9, table) for table in crowd], pages)) == 45
    (slab,) = mirror._slabs.values()
    assert len(slab.owners) == 64
    table = tuple(range(60))
    for start in range(9, 9 + 22):
        decode(mirror, [span_at(start, table)], pages)
    assert len(slab.owners) == 64, "control: nobody was idle for long"
    for start in range(31, 100):
        decode(mirror, [span_at(start, table)], pages)
    assert len(slab.owners) == 8
    # an idle row that is asked for again with a wider one, and rows that are not there any more
    spans = [span_at(100, table), *(span_at(10, each) for each in crowd[:3])]
    assert len(decode(mirror, spans, pages)) == 4
    for start in range(1, 80):
        decode(mirror, [span_at(100 + start, table)], pages)
    rows = decode(mirror, [span_at(11, crowd[0]), span_at(210, table)], pages)
    assert len({row.index for row in rows}) == 2


def test_a_slab_gets_narrower_once_the_long_are_gone(pages):
    mirror = Mirror(pages, 4096)
    long, short = tuple(range(60)), tuple(range(100, 160))
    (row,) = decode(mirror, [span_at(200, long)], pages)
    assert row.slab.width == 224
    for start in range(8, 78):
        (row,) = decode(mirror, [span_at(start, short)], pages)
    assert row.slab.width == 96
    # who was dropped comes back
    decode(mirror, [span_at(201, long), span_at(78, short)], pages)
