import threading

import pytest

from idlegrid.actors.resident import Residents


class Shelf:
    """Counts what was loaded and what was let go."""

    def __init__(self, limit=2):
        self.loads, self.events = [], []
        self.residents = Residents(
            self.load,
            limit=limit,
            loaded=lambda model: self.events.append(("loaded", model)),
            unloaded=lambda model: self.events.append(("unloaded", model)),
        )

    def load(self, model, **options):
        self.loads.append((model, options))
        if model == "broken":
            raise OSError("no such weights")
        return object()


def test_a_model_is_loaded_once():
    shelf = Shelf()
    assert shelf.residents.get("a", dtype="auto") is shelf.residents.get("a", dtype="auto")
    assert shelf.loads == [("a", {"dtype": "auto"})]


def test_options_make_another_model():
    shelf = Shelf()
    assert shelf.residents.get("a", dtype="float32") is not shelf.residents.get("a", dtype="bfloat16")


def test_what_auto_chose_serves_who_names_it():
    loads = []

    def load(model, *, dtype):
        loads.append(dtype)
        return "bfloat16" if dtype == "auto" else dtype

    residents = Residents(
        load, serves=lambda chosen, asked, loaded_with: asked["dtype"] in (chosen, loaded_with["dtype"])
    )
    assert [residents.get("a", dtype=dtype) for dtype in ("auto", "bfloat16", "float32", "auto")] == [
        "bfloat16",
        "bfloat16",
        "float32",
        "bfloat16",
    ]
    assert loads == ["auto", "float32"]


def test_the_least_recently_used_one_goes_first():
    shelf = Shelf(limit=2)
    for model in ("a", "b", "a", "c"):
        shelf.residents.get(model)
    assert shelf.events == [("loaded", "a"), ("loaded", "b"), ("unloaded", "b"), ("loaded", "c")]


def test_a_failed_load_is_told_and_tried_anew():
    shelf = Shelf()
    for _ in range(2):
        with pytest.raises(OSError, match="no such weights"):
            shelf.residents.get("broken")
    assert len(shelf.loads) == 2


def test_loading_is_single_flight():
    loading, go, loads = threading.Event(), threading.Event(), []

    def load(model):
        loads.append(model)
        loading.set()
        assert go.wait(10)
        return object()

    residents = Residents(load)
    results = []
    threads = [threading.Thread(target=lambda: results.append(residents.get("a"))) for _ in range(4)]
    threads[0].start()
    assert loading.wait(10)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert loads == ["a"]
    assert len({id(model) for model in results}) == 1
