"""The notebooks run from top to bottom, and show what their words say."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def shown(cell):
    """All that a cell printed or displayed, as text."""
    parts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(parts)


def printed(cell):
    """All that a cell printed."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def executed(name, folder, timeout, **variables):
    """A notebook, run from top to bottom in a folder; its kernel has these variables besides our environment."""
    notebook = read(FOLDER / name)
    resources = {"metadata": {"path": str(folder)}}
    options = {"timeout": timeout, "kernel_name": "python3", "coalesce_streams": True, "resources": resources}
    NotebookClient(notebook, **options).execute(env={**os.environ, **variables})
    return notebook


def cell_with(notebook, words):
    [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and words in cell.source]
    return cell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.fixture(scope="module")
def futures(tmp_path_factory):
    """01_futures, executed."""
    return executed("01_futures.ipynb", tmp_path_factory.mktemp("notebook"), timeout=180)


@pytest.fixture(scope="module")
def bulk(tmp_path_factory, tiny_whisper):
    """02_bulk_parquet, executed, with a tiny Whisper in place of the usual one."""
    folder = tmp_path_factory.mktemp("notebook")
    return executed("02_bulk_parquet.ipynb", folder, timeout=180, WHISPER=str(tiny_whisper.folder))


@pytest.mark.slow
@pytest.mark.timeout(240)
class TestFutures:
    def test_the_grid_shows_itself(self, futures):
        cell = cell_with(futures, "grid = Grid(")
        card = cell.outputs[-1]["data"]["text/html"]
        for region in ("europe-west", "america-north", "asia-east"):
            assert region in card
        assert "3 online" in card

    def test_futures_and_vectors(self, futures):
        assert "Future: pending" in shown(cell_with(futures, "future = grid.embed(["))
        assert shown(cell_with(futures, "vectors = future.result()")) == "((3, 384), dtype('float32'))"
        assert "100% Completed" in shown(cell_with(futures, "progress(futures"))
        assert shown(cell_with(futures, "for future in as_completed")).startswith("500 texts, computed on ")
        assert shown(cell_with(futures, "np.concatenate(grid.client.gather")) == "(500, 384)"

    def test_the_search_finds_what_is_meant(self, futures):
        assert "difflib" in shown(cell_with(futures, 'search("compare two files'))
        assert "asyncio" in shown(cell_with(futures, 'search("wait until all tasks'))

    def test_why_a_task_waits(self, futures):
        told = shown(cell_with(futures, "why = grid.why(stuck)"))
        assert "nobody may take it now (3 × wrong_region)" in told
        assert "must stay in oceania" in told
        assert "paused by its owner" in cell_with(futures, '"pause")').outputs[-1]["data"]["text/html"]
        assert shown(cell_with(futures, '"resume")')) == "'online'"

    def test_an_error_says_where(self, futures):
        told = shown(cell_with(futures, "grid.submit(half, 0)"))
        assert "ZeroDivisionError: division by zero" in told
        assert "raised on worker local-" in told

    def test_a_whole_dataset(self, futures):
        assert shown(cell_with(futures, "report = grid.embed_parquet")).startswith("500 rows, 0 with an error")
        assert int(shown(cell_with(futures, "dd.read_parquet"))) > 100

    def test_the_end(self, futures):
        assert shown(cell_with(futures, "grid.close()")) == "<Grid: closed>"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_is_split_and_outlives_one_of_its_workers(tmp_path):
    """03_split_a_model: the sentence in whose middle a worker was killed ends as the one before."""
    notebook = executed("03_split_a_model.ipynb", tmp_path, timeout=240)
    split = shown(cell_with(notebook, "grid.deploy(MODEL"))
    assert "1 of 1 replicas serve" in split
    marks = [line.split()[1] for line in split.splitlines()[2:5]]
    assert len(marks[0]) == 18
    assert all(sorted(column) == ["·", "·", "█"] for column in zip(*marks, strict=True)), "each block on one worker"
    assert " ms probed" in split
    calm, broken = printed(cell_with(notebook, "calm = ")), printed(cell_with(notebook, "os.kill("))
    assert calm.endswith("58, 59, 60")
    assert " [kill -9] " in broken
    assert broken.replace(" [kill -9] ", "") == calm
    assert shown(cell_with(notebook, "answer == calm")) == "True"
    assert "donor_id=" in shown(cell_with(notebook, "first, middle, last"))
    [now] = [cell for cell in notebook.cells if cell.source == "grid.deployments()"]
    assert "1 of 1 replicas serve" in shown(now)
    assert shown(cell_with(notebook, "grid.close()")) == "<Grid: closed>"


@pytest.mark.slow
@pytest.mark.timeout(240)
class TestBulk:
    def test_it_stops_and_goes_on(self, bulk):
        stopped = shown(cell_with(bulk, "stop_soon(look)"))
        assert "150 of 400 rows" in stopped
        assert "Stopped. The finished parts in" in stopped
        there = shown(cell_with(bulk, "sorted(path.name"))
        assert "_plan.json" in there
        assert "_SUCCESS" not in there
        went_on = shown(cell_with(bulk, "report = grid.embed_parquet"))
        assert "400 of 400 rows" in went_on
        found = re.search(r"400 rows, 2 with an error; (\d) of 8 parts were there already", went_on)
        assert int(found[1]) >= 3

    def test_bad_rows_say_why(self, bulk):
        told = cell_with(bulk, '["error"].notna()').outputs[-1]["data"]["text/html"]
        assert "null text" in told
        assert "text too long: 2,000,000" in told
        assert float(shown(cell_with(bulk, "dd.read_parquet")).split()[0]) > 50

    def test_recordings(self, bulk):
        assert shown(cell_with(bulk, "grid.transcribe_parquet")).startswith("7 recordings, 1 with an error, in ")
        table = cell_with(bulk, 'heard[["call"').outputs[-1]["data"]["text/html"]
        assert "no sound of a known format" in table
        assert "3.5" in table
