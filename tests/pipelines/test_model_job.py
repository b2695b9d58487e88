"""What all job types share that compute with a model."""

from __future__ import annotations

import pytest

from idlegrid.grid import catalogue
from idlegrid.pipelines.model_job import ModelJobType, ModelParams, file_of


class EmbeddingLike(ModelJobType):
    name = "embedding"


def test_a_job_asks_for_its_model_and_the_memory_that_is_listed():
    listed = catalogue.model("minilm")
    ask = EmbeddingLike().ask(ModelParams(model="minilm"))
    assert (ask.type, ask.model, ask.gpu_memory_gb) == ("embedding", listed.id, listed.gpu_memory_gb)
    assert EmbeddingLike().ask(ModelParams(model="somebody/else")).gpu_memory_gb == 0
    assert EmbeddingLike().model_of(ModelParams()) == catalogue.canonical(None, "embedding")


def test_files_in_base64():
    assert file_of("aGk=", "image_base64") == b"hi"
    with pytest.raises(ValueError, match="image_base64 is no Base64"):
        file_of("?", "image_base64")
    with pytest.raises(ValueError, match="which replaces audio_url"):
        file_of(None, "audio_base64")
