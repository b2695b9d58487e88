"""What a task does on a worker, without one: the resident model is a small one made here."""

from __future__ import annotations

import numpy as np
import pytest
from distributed import Client, LocalCluster

from idlegrid.actors import tasks
from idlegrid.actors.tasks import BadTokens, Embedded, embed_inputs, located, model_facts
from idlegrid.grid.donors import Donor
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin


class Facts:
    vocab_size, max_tokens = 100, 4

    def as_dict(self):
        return {"vocab_size": self.vocab_size}


class CountingModel:
    """A token per letter, a vector (length, first token); takes what a real model takes."""

    facts = Facts()

    def tokenize(self, texts, *, truncate=True):
        return [[ord(letter) - 60 for letter in text][: 4 if truncate else None] for text in texts]

    def embed_tokens(self, ids, *, normalize=True, dimensions=None):
        return np.array([[len(one), one[0]] for one in ids], dtype=np.float32)[:, :dimensions]


@pytest.fixture(autouse=True)
def model(monkeypatch):
    loaded = CountingModel()
    monkeypatch.setattr(tasks, "embedding_model", lambda name, *, dtype="auto", backend="auto": loaded)
    return loaded


def test_texts_and_tokens_in_one_call_keep_their_order():
    done = embed_inputs("m", ["abc", [7, 8], "b", [9]])
    assert isinstance(done, Embedded)
    assert done.tokens == [3, 2, 1, 1]
    np.testing.assert_array_equal(done.vectors, [[3, ord("a") - 60], [2, 7], [1, ord("b") - 60], [1, 9]])


def test_long_texts_are_cut_unless_told_otherwise():
    assert embed_inputs("m", ["abcdefgh"]).tokens == [4]
    with pytest.raises(BadTokens, match="input 1 has 8 tokens, the model takes 1 to 4"):
        embed_inputs("m", ["ab", "abcdefgh"], truncate=False)


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        ([], "has 0 tokens, the model takes 1 to 4"),
        ([1, 2, 3, 4, 5], "has 5 tokens"),
        ([1, 100], r"has the token id 100, which the model does not know \(0 to 99\)"),
        ([1, -1], "has the token id -1"),
    ],
)
def test_tokens_that_the_model_can_not_take_are_refused(tokens, what):
    with pytest.raises(BadTokens, match=f"input 1 {what}") as caught:
        embed_inputs("m", ["a", tokens])
    assert caught.value.index == 1


def test_facts_are_plain():
    assert model_facts("m") == {"vocab_size": 100}


@pytest.mark.slow
def test_an_error_arrives_with_its_worker_and_region():
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(DonorPlugin(Donor(id="d", region="oceania")))
        for thrown in (ValueError("no"), BadTokens(3, "has a hole")):

            def fail(error: Exception) -> None:
                raise error

            error = client.submit(located(fail), thrown, pure=False).exception(timeout=30)
            assert type(error) is type(thrown)
            [note] = error.__notes__
            assert note.startswith("raised on worker 0 in oceania (tcp://")
        assert (error.index, error.what) == (3, "has a hole")


def test_the_wrapper_keeps_the_name():
    assert located(embed_inputs).__name__ == "embed_inputs"
