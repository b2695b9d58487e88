"""The job type `embedding`: its parameters' bounds, what it asks of a donor, and a real run."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from idlegrid.grid.job_types import job_type
from idlegrid.grid.jobs import Ask
from idlegrid.pipelines.embedding import JOB_TYPE, MAX_TEXTS, EmbeddingParams

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def test_it_comes_through_the_register():
    assert job_type("embedding") is JOB_TYPE


def test_the_defaults_are_those_of_the_contract():
    assert EmbeddingParams(texts=["a"]).model_dump() == {
        "model": None,
        "texts": ["a"],
        "normalize": True,
        "dimensions": None,
    }


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": "one text"}, "texts"),
        ({"texts": [None]}, "texts"),
        ({"texts": ["a"] * (MAX_TEXTS + 1)}, "texts"),
        ({"texts": ["a"], "dimensions": 0}, "dimensions"),
        ({"texts": ["a"], "model": ""}, "model"),
        ({"texts": ["a"], "normalise": False}, "normalise"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(params, field):
    with pytest.raises(ValidationError, match=field):
        EmbeddingParams.model_validate(params)


def test_the_ask_names_the_model_and_its_memory():
    assert JOB_TYPE.ask(EmbeddingParams(texts=["a"])) == Ask(type="embedding", model=MINILM, gpu_memory_gb=0.2)
    assert JOB_TYPE.ask(EmbeddingParams(texts=["a"], model="minilm")).model == MINILM
    assert JOB_TYPE.ask(EmbeddingParams(texts=["a"], model="someone/else")) == Ask(
        type="embedding", model="someone/else"
    )


def test_importing_it_brings_no_torch():
    code = "import sys, idlegrid.pipelines.embedding as e; e.JOB_TYPE.ask(e.EmbeddingParams(texts=['a']))"
    code += "; sys.exit(' '.join({'torch', 'dask', 'fastapi'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_run_gives_vectors_that_find_the_like():
    params = EmbeddingParams(texts=["a cat sat", "a kitten rested", "the stock market fell"], model="minilm")
    result = JOB_TYPE.run(params)
    vectors = np.array(result.embeddings)
    assert vectors.shape == (3, result.dimensions) == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert result.usage.prompt_tokens == result.usage.total_tokens == 16
    short = JOB_TYPE.run(params.model_copy(update={"dimensions": 8, "normalize": False}))
    assert short.dimensions == 8
    assert np.shape(short.embeddings) == (3, 8)
