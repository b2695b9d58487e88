"""`Grid` and language models: futures, streams, and who has the place on a worker."""

from __future__ import annotations

import os
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idlegrid.actors.llm.request import RequestRefused
from idlegrid.api import Grid

pytestmark = pytest.mark.slow

ASK = {"max_tokens": 12, "seed": 5}


@pytest.fixture(scope="module")
def model(language_model):
    return str(language_model.folder)


@pytest.fixture(scope="module")
def small():
    """One worker with one place: who waits for it, waits."""
    with Grid(workers=1) as grid:
        yield grid


def test_futures_and_streams_say_the_same(small, model):
    whole = small.chat("Hello", model=model, **ASK).result(90)
    assert str(whole) == whole.text != ""
    assert whole.finish_reason in ("stop", "length")
    assert "".join(small.stream_chat("Hello", model=model, **ASK)) == whole.text
    messages = [{"role": "user", "content": "Hello"}]
    assert small.chat(messages, model=model, **ASK).result(90) == whole
    assert "".join(small.stream_chat(messages, model=model, **ASK)) == whole.text


def test_a_text_that_goes_on(small, model):
    whole = small.complete("The quick brown", model=model, temperature=0, max_tokens=6).result(90)
    pieces = small.stream_chat("The quick brown", model=model, raw=True, temperature=0, max_tokens=6)
    assert "".join(pieces) == whole.text
    assert small.chat("The quick brown", model=model, temperature=0, max_tokens=6).result(90).text != whole.text


def test_many_at_once_each_with_a_seed_of_its_own(small, model):
    futures = small.map_chat(["Hello"] * 5, model=model, batch_size=2, temperature=1.0, **ASK)
    answers = [one.text for future in futures for one in future.result(90)]
    assert len(set(answers)) == 5
    again = small.map_chat(["Hello"] * 5, model=model, batch_size=5, temperature=1.0, **ASK)
    assert [one.text for one in again[0].result(90)] == answers


def test_a_stream_under_way_ends_before_a_task_gets_the_place(small, model):
    stream = small.stream_chat("Hello", model=model, max_tokens=200, ignore_eos=True)
    next(stream)
    future = small.chat("Hello", model=model, **ASK)
    assert not future.done()
    stream.close()
    assert future.result(90).text


def test_what_can_not_be(small, model):
    with pytest.raises(RequestRefused):
        small.chat([{"role": "robot", "content": "x"}], model=model).result(90)
    with pytest.raises(RequestRefused):
        next(small.stream_chat([{"role": "robot", "content": "x"}], model=model))
    with pytest.raises(TypeError):
        small.chat("x", model=model, max_token=5)
    with pytest.raises(TypeError, match="for one question"):
        small.map_chat("x", model=model)


def test_bulk_from_a_notebook(small, model, tmp_path):
    pq.write_table(pa.table({"prompt": ["a", "b"]}), tmp_path / "in.parquet")
    report = small.chat_parquet(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), prompt_column="prompt", model=model, max_tokens=4
    )
    assert (report.rows, report.errors) == (2, 0)


def test_a_stream_goes_on_when_its_worker_dies(model):
    options = {"model": model, "max_tokens": 300, "seed": 3, "temperature": 1.0, "ignore_eos": True}
    with Grid(workers=2) as grid:
        calm = "".join(grid.stream_chat("Hello", **options))
        stream = grid.stream_chat("Hello", **options)
        parts = [next(stream) for _ in range(3)]
        busy = {row["address"]: row["running"] for row in grid.state()["workers"]}
        address = max(busy, key=busy.__getitem__)
        os.kill(grid.client.run(os.getpid, workers=[address])[address], signal.SIGKILL)
        assert "".join([*parts, *stream]) == calm
