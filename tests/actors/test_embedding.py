"""The real MiniLM, against sentence-transformers' own `encode`."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from idlegrid.actors.embedding import MIN_COSINE, EmbeddingModel
from idlegrid.actors.encoders import openvino_available
from idlegrid.actors.models import ModelNotFound, resolve
from idlegrid.pipelines.samples import docstrings

pytestmark = pytest.mark.slow

NAME = "all-MiniLM-L6-v2"
TEXTS = [text for _, text in docstrings(300)[::5]] + ["no", "短い文章です。", "Grüße", "word " * 600]


@pytest.fixture(scope="module")
def exact():
    return EmbeddingModel(NAME, dtype="float32", backend="torch", device="cpu")


@pytest.fixture(scope="module")
def reference():
    """(n, 384) by `SentenceTransformer.encode` with its defaults, in fp32."""
    from sentence_transformers import SentenceTransformer  # takes seconds: not while tests are collected

    return SentenceTransformer(str(resolve(NAME)), device="cpu").encode(TEXTS, show_progress_bar=False)


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_fp32_equals_sentence_transformers(exact, reference):
    vectors = exact.embed(TEXTS)
    assert vectors.shape == reference.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, reference, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "openvino", "auto"])
def test_16_bits_stay_close_to_fp32(reference, backend):
    if backend == "openvino" and not openvino_available():
        pytest.skip("the extra openvino is not installed")
    dtype = "auto" if backend == "auto" else "bfloat16"
    model = EmbeddingModel(NAME, dtype=dtype, backend=backend, device="cpu")
    assert cosines(model.embed(TEXTS), reference).min() >= MIN_COSINE
    assert model.facts.min_cosine >= MIN_COSINE
    if backend != "auto":
        assert (model.facts.backend, model.facts.dtype) == (backend, "bfloat16")


def test_the_facts_say_what_it_is(exact):
    facts = exact.facts
    assert (facts.dimension, facts.max_tokens, facts.vocab_size) == (384, 256, 30522)
    assert (facts.dtype, facts.backend, facts.min_cosine) == ("float32", "torch", 1.0)
    assert len(facts.revision) == 16
    assert facts.device.startswith("cpu")
    assert set(facts.versions) == {"torch", "transformers", "sentence-transformers"}


def test_a_batch_of_any_size_gives_the_same_vectors(exact):
    small = EmbeddingModel(NAME, dtype="float32", backend="torch", device="cpu", token_budget=64)
    np.testing.assert_allclose(small.embed(TEXTS), exact.embed(TEXTS), atol=1e-5)


def test_the_order_is_kept(exact):
    turned = exact.embed(TEXTS[::-1])
    np.testing.assert_allclose(turned[::-1], exact.embed(TEXTS), atol=1e-5)


def test_long_texts_are_cut_or_left_whole(exact):
    text = "word " * 600
    [cut], [whole] = exact.tokenize([text]), exact.tokenize([text], truncate=False)
    assert len(cut) == exact.facts.max_tokens == 256
    assert len(whole) == 602
    np.testing.assert_allclose(exact.embed([text]), exact.embed_tokens([cut]), atol=1e-6)


def test_tokens_of_nothing(exact):
    assert exact.tokenize([]) == []
    assert exact.embed([]).shape == (0, 384)
    assert len(exact.tokenize([""])[0]) == 2  # its two special tokens: an empty text has a vector


def test_lengths_are_kept_on_demand(exact):
    raw = exact.embed(TEXTS[:8], normalize=False)
    lengths = np.linalg.norm(raw, axis=1)
    assert np.abs(lengths - 1).max() > 0.1
    np.testing.assert_allclose(raw / lengths[:, None], exact.embed(TEXTS[:8]), atol=1e-5)


def test_fewer_dimensions_are_the_first_ones_normalised_again(exact):
    full, short = exact.embed(TEXTS[:8]), exact.embed(TEXTS[:8], dimensions=64)
    assert short.shape == (8, 64)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(cosines(short, full[:, :64]), 1, atol=1e-5)


@pytest.mark.parametrize("dimensions", [0, -1, 385])
def test_dimensions_that_the_model_does_not_have_are_refused(exact, dimensions):
    with pytest.raises(ValueError, match=rf"1\.\.384 for this model, not {dimensions}"):
        exact.embed(["a"], dimensions=dimensions)


def test_a_text_without_tokens_is_refused(exact):
    with pytest.raises(ValueError, match="text 1 has no token"):
        exact.embed_tokens([[101, 102], []])


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_threads_do_not_disturb_each_other(backend):
    model = EmbeddingModel(NAME, backend=backend, device="cpu")
    parts = [TEXTS[start::4] for start in range(4)]
    alone = [model.embed(part) for part in parts]
    together: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda index=index: together.update({index: model.embed(parts[index])}))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for index, vectors in enumerate(alone):
        np.testing.assert_array_equal(together[index], vectors)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dtype": "float16"}, "dtype must be one of auto, bfloat16, float32, not 'float16'"),
        ({"backend": "onnx"}, "backend must be one of auto, torch, openvino, not 'onnx'"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:n, not 'tpu'"),
    ],
)
def test_options_that_do_not_exist_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingModel(NAME, **option)


def test_a_model_that_is_not_there():
    with pytest.raises(ModelNotFound, match="no/such-model"):
        EmbeddingModel("no/such-model")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_told_before_anything_is_loaded():
    with pytest.raises(ValueError, match="torch finds no CUDA device here"):
        EmbeddingModel("no/such-model", device="cuda:0")


def test_openvino_is_for_cpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="openvino needs a CPU device"):
        EmbeddingModel("no/such-model", backend="openvino", device="cuda:0")
