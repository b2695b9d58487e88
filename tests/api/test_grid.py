"""`Grid` with real workers: futures that Dask's tools work on, placed by the grid's rules."""

from __future__ import annotations

import functools
import importlib
import operator
import time
from io import StringIO

import distributed
import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from idlegrid.api import Grid
from idlegrid.grid.jobs import Ask
from idlegrid.grid.regions import UnknownRegionError
from idlegrid.pipelines.samples import sentences, write_parquet

EMBEDDING = Ask(type="embedding")


class TestWithoutAGrid:
    def test_an_address_and_a_shape_exclude_each_other(self):
        with pytest.raises(ValueError, match="leave them out with an address"):
            Grid("tcp://127.0.0.1:1", workers=2)

    def test_a_region_that_does_not_exist(self):
        with pytest.raises(UnknownRegionError, match="Did you mean 'oceania'"):
            Grid(region="oceana")

    def test_to_stay_nowhere(self):
        with pytest.raises(ValueError, match="needs a region"):
            Grid(allow_cross_region=False)


@pytest.mark.slow
class TestEmbedding:
    def test_a_future_of_vectors_in_order(self, grid):
        future = grid.embed(["a lease", "a fence", "a lease"])
        assert isinstance(future, distributed.Future)
        vectors = future.result(timeout=90)
        assert vectors.shape == (3, 384)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(vectors[0], vectors[2])

    def test_options(self, grid):
        vectors = grid.embed(["a lease"], model="minilm", dimensions=16, normalize=False).result(timeout=90)
        assert vectors.shape == (1, 16)
        assert not np.isclose(np.linalg.norm(vectors), 1)

    def test_dask_gathers_in_order_and_as_they_come(self, grid):
        texts = [text for _, text in sentences(40)]
        futures = grid.map_embed(iter(texts), batch_size=16)
        assert [len(part) for part in grid.client.gather(futures)] == [16, 16, 8]
        assert {future.key for future in distributed.as_completed(futures)} == {future.key for future in futures}
        both = np.concatenate(grid.client.gather(futures))
        np.testing.assert_allclose(both[20], grid.embed([texts[20]]).result(timeout=90)[0], atol=5e-3)

    def test_dask_shows_the_progress(self, grid, capsys):
        futures = grid.map_embed(["a"] * 4, batch_size=1)
        distributed.progress(futures, notebook=False)
        distributed.wait(futures, timeout=90)
        assert "Completed" in capsys.readouterr().out

    def test_the_dashboard_groups_them_under_one_name(self, grid):
        futures = [*grid.map_embed(["a", "b"], batch_size=1), grid.embed(["c"])]
        distributed.wait(futures, timeout=90)
        assert {distributed.utils.key_split(future.key) for future in futures} == {"embed"}

    def test_what_is_no_list_of_strings_is_told(self, grid):
        with pytest.raises(TypeError, match=r"for one text write \['just one'\]"):
            grid.embed("just one")
        with pytest.raises(ValueError, match="nothing to embed"):
            grid.embed([])
        with pytest.raises(TypeError, match="text 3 is of type int, not a string"):
            grid.map_embed(["a", "b", "c", 4], batch_size=2)
        with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
            grid.map_embed(["a"], batch_size=0)
        assert grid.map_embed([]) == []

    def test_a_bad_option_fails_its_future_with_the_worker_s_name(self, grid):
        error = grid.embed(["a"], dimensions=1000).exception(timeout=90)
        assert isinstance(error, ValueError)
        assert "1..384 for this model, not 1000" in str(error)
        [note] = error.__notes__
        assert "on worker local-" in note
        assert any(region in note for region in ("europe-west", "asia-east"))

    def test_a_whole_dataset(self, grid, tmp_path):
        rows = sentences(64)
        write_parquet(tmp_path / "in.parquet", rows)
        report = grid.embed_parquet(str(tmp_path / "in.parquet"), str(tmp_path / "out"), column="text")
        assert (report.rows, report.errors) == (64, 0)
        table = pq.read_table(tmp_path / "out")
        assert table["text"].to_pylist() == [text for _, text in rows]
        assert table["embedding"].type.list_size == 384


@pytest.mark.slow
class TestFunctions:
    def test_submit_and_map(self, grid):
        assert grid.submit(operator.add, 1, 2).result(timeout=30) == 3
        assert grid.client.gather(grid.map(lambda x, y: x * y, [1, 2], [3, 4])) == [3, 8]
        assert grid.submit(operator.add, 1, 2, ask=EMBEDDING).result(timeout=30) == 3

    def test_the_same_call_twice_is_done_twice(self, grid):
        first, second = (grid.submit(time.monotonic_ns) for _ in range(2))
        assert first.key != second.key

    @pytest.mark.parametrize(
        ("function", "name"),
        [(abs, "abs"), (lambda _: None, "lambda"), (functools.partial(operator.add, 1), "add")],
    )
    def test_the_dashboard_shows_the_function_s_name(self, grid, function, name):
        futures = [grid.submit(function, 1), *grid.map(function, [1, 2])]
        distributed.wait(futures, timeout=30)
        assert {distributed.utils.key_split(future.key) for future in futures} == {name}

    def test_a_function_that_the_workers_can_not_import_harms_nobody(self, grid, tmp_path, monkeypatch):
        (tmp_path / "only_here.py").write_text("def double(x): return 2 * x")
        monkeypatch.syspath_prepend(tmp_path)
        double = importlib.import_module("only_here").double
        assert double(1) == 2
        before = grid.client.nthreads()
        for future in (grid.submit(double, 1), *grid.map(double, [1])):
            error = future.exception(timeout=30)
            assert isinstance(error, ModuleNotFoundError)
            assert "on worker local-" in error.__notes__[0]
        assert grid.client.nthreads() == before

    def test_an_error_comes_with_its_traceback_worker_and_region(self, grid):
        local = lambda: 1 / 0  # noqa: E731 - what a notebook sends
        future = grid.submit(local, ask=EMBEDDING)
        with pytest.raises(ZeroDivisionError) as caught:
            future.result(timeout=30)
        assert any("on worker local-" in note and " in " in note for note in caught.value.__notes__)
        assert any("test_grid.py" in entry.path.name for entry in caught.traceback if hasattr(entry.path, "name"))


@pytest.mark.slow
class TestPlacement:
    def test_work_stays_in_a_region_when_it_must(self, grid):
        def where():
            return distributed.get_worker().name

        for region, name in (("europe-west", "local-0"), ("asia-east", "local-1")):
            ask = Ask(type="embedding", region=region, allow_cross_region=False)
            assert {future.result(timeout=30) for future in [grid.submit(where, ask=ask) for _ in range(4)]} == {name}

    def test_a_second_grid_object_brings_its_region(self, grid):
        with Grid(grid.address, region="asia-east", allow_cross_region=False) as mine:
            where = mine.submit(lambda: distributed.get_worker().name, ask=EMBEDDING)
            assert where.result(timeout=30) == "local-1"
        assert grid.state()["workers"], "closing it does not end a grid that it did not start"

    def test_why_a_task_waits(self, grid):
        future = grid.submit(time.sleep, 0, ask=Ask(type="embedding", region="oceania", allow_cross_region=False))
        why = _eventually(lambda: grid.why(future), lambda why: why["state"] == "no-worker")
        assert "nobody may take it now (2 × wrong_region)" in why["summary"]
        details = {row["name"]: row["detail"] for row in why["candidates"]}
        assert details["local-0"] == "is in europe-west; the work must stay in oceania"
        future.cancel()

    def test_pause_and_resume(self, grid):
        try:
            assert [grid.control(name, "pause")["state"] for name in ("local-0", "local-1")] == ["paused"] * 2
            future = grid.submit(operator.add, 1, 1, ask=EMBEDDING)
            why = _eventually(lambda: grid.why(future.key), lambda why: why["state"] == "no-worker")
            assert "2 × paused" in why["summary"]
        finally:
            states = [grid.control(name, "resume")["state"] for name in ("local-0", "local-1")]
        assert set(states) <= {"online", "busy"}, "the task that waited may have begun already"
        assert future.result(timeout=30) == 2

    def test_orders_that_can_not_be_followed(self, grid):
        with pytest.raises(LookupError, match=r"no worker 'locl-1' is here. Did you mean 'local-1'"):
            grid.control("locl-1", "pause")
        with pytest.raises(ValueError, match="unknown action 'stop': one of pause, resume, drain"):
            grid.control("local-1", "stop")


@pytest.mark.slow
class TestShown:
    def test_as_text_and_as_a_card(self, grid):
        assert repr(grid) == f"<Grid at {grid.address}: 2 workers>"
        card = grid._repr_html_()
        for words in ("local-0", "europe-west", "asia-east", grid.address, grid.dashboard_link):
            assert words in card
        screen = StringIO()
        Console(file=screen).print(grid)  # what IPython does beside a terminal
        assert grid.address in screen.getvalue()

    def test_the_page_is_there(self, grid):
        import httpx

        answer = httpx.get(grid.dashboard_link, timeout=30)
        assert answer.status_code == 200

    def test_closed(self, grid):
        other = Grid(grid.address)
        other.close()
        assert repr(other) == "<Grid: closed>"
        assert "closed" in other._repr_html_()
        other.close()


def _eventually(look, good, within=10.0):
    deadline = time.monotonic() + within
    while not good(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen
