"""Engines that stay in a process."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import wait

import pytest

from idlegrid.actors.llm import resident
from idlegrid.actors.llm.engine_face import EngineClosed
from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.llm.resident import EngineThread, encoded, lend, llm_engine, take_back
from idlegrid.actors.llm.seeds import derived
from idlegrid.actors.serving.engines import EngineSpec, make_engine

pytestmark = pytest.mark.slow


def ask(text: str, engine: EngineThread, **sampling) -> Request:
    return Request(
        id=f"{text}-{derived(hash(text) & 0xFFFF, *range(len(text)))}",
        prompt=encoded(engine.engine, None, text),
        sampling=Sampling(**{"temperature": 0, "max_tokens": 8, **sampling}),
    )


@pytest.fixture
def engine(language_model):
    return llm_engine(str(language_model.folder), dtype="float32", device="cpu")


def test_there_is_one_for_all_threads(engine, language_model):
    assert llm_engine(str(language_model.folder), dtype="float32", device="cpu") is engine
    futures = [engine.complete(ask(f"text {number}", engine)) for number in range(12)]
    wait(futures, timeout=60)
    alone = engine.complete(ask("text 3", engine)).result(60)
    assert futures[3].result().text == alone.text
    assert alone.completion_tokens <= 8


def test_a_cancelled_future_aborts_its_request(engine):
    future = engine.complete(ask("a long one", engine, max_tokens=480, ignore_eos=True))
    future.cancel()
    done = engine.complete(ask("another", engine)).result(60)
    assert done.completion_tokens <= 8

    async def busy() -> int:
        load = engine.engine.load()
        return load.running + load.waiting

    assert engine.call(busy()) == 0


def test_one_that_broke_is_loaded_again(engine, language_model):
    engine.call(engine.engine.close())
    with pytest.raises(EngineClosed):
        engine.complete(Request(id="x", prompt=(1,))).result(60)
    assert not engine.alive
    fresh = llm_engine(str(language_model.folder), dtype="float32", device="cpu")
    assert fresh is not engine
    assert fresh.complete(ask("text", fresh)).result(60).text is not None


def test_one_that_can_not_be_loaded_leaves_no_thread(tmp_path):
    before = {thread.ident for thread in threading.enumerate()}
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Exception):  # noqa: B017 - whatever the engine says
        llm_engine(str(tmp_path))
    assert not [t for t in threading.enumerate() if t.name == "idlegrid-engine" and t.ident not in before]


def test_one_that_nobody_holds_ends(language_model):
    spec = EngineSpec(model=str(language_model.folder), dtype="float32")
    thread = EngineThread(lambda: make_engine(spec))
    inner = thread.engine
    close = thread.close
    del thread
    gc.collect()
    assert not close.alive
    with pytest.raises(EngineClosed):
        _ = inner.facts


def test_seeds_that_follow_from_a_seed():
    seeds = {derived(seed, index) for seed in range(20) for index in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived(1, 2) == derived(1, 2) != derived(1, 2, 0)


@pytest.fixture
def replica(language_model):
    """A replica's engine, on a loop of its own, lent to this process; and what ends it."""
    spec = EngineSpec(model=str(language_model.folder), engine="torch", dtype="float32")
    owner = EngineThread(lambda: make_engine(spec))

    async def offer() -> None:
        lend(spec, owner.engine)

    async def end() -> None:
        take_back(owner.engine)
        await owner.engine.close()

    owner.call(offer())
    yield owner, lambda: owner.call(end())
    take_back(owner.engine)


def test_a_replicas_engine_is_used_and_not_loaded_twice(replica, language_model):
    owner, _ = replica
    shared = llm_engine(str(language_model.folder))  # with whatever auto stands for: it is there
    assert shared.engine is owner.engine
    assert llm_engine(str(language_model.folder), dtype="float32", engine="torch").engine is owner.engine
    assert llm_engine(str(language_model.folder), dtype="bfloat16").engine is not owner.engine
    alone = owner.complete(ask("the same", owner)).result(60)
    assert shared.complete(ask("the same", shared, max_tokens=8)).result(60).text == alone.text


def test_who_used_a_replica_that_ends_goes_on_without_it(replica, language_model):
    owner, end = replica
    model = str(language_model.folder)
    shared = llm_engine(model)
    alone = owner.complete(ask("to the end", owner, max_tokens=300, ignore_eos=True)).result(60)
    future = shared.complete(ask("to the end, ", shared, max_tokens=300, ignore_eos=True))
    end()
    assert future.result(60).completion_tokens == alone.completion_tokens
    assert llm_engine(model).engine is not owner.engine


def test_the_engine_is_the_donors(language_model, monkeypatch):
    monkeypatch.setenv("GPU_LLM_ENGINE", "transformers")
    monkeypatch.setattr(resident, "_configured_engine", resident._configured_engine.__wrapped__)
    assert llm_engine(str(language_model.folder), dtype="float32").facts.backend == "transformers"
