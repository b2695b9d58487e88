"""The job types keep their contract."""

from __future__ import annotations

import base64

import numpy as np
import pyarrow as pa
import pytest
from in_process import LocalEmbedder, LocalTranscriber
from job_type_contract import ROWS, JobTypeContract, grid_here, over_asgi  # noqa: F401 - a fixture
from tiny_whisper import as_file, silence, tone

from idlegrid.api.http import create_app
from idlegrid.grid import catalogue
from idlegrid.grid.config import Settings
from idlegrid.pipelines.bulk import embed_parquet, transcribe_parquet
from idlegrid.pipelines.embedding import JOB_TYPE as EMBEDDING
from idlegrid.pipelines.whisper import JOB_TYPE as WHISPER

pytestmark = pytest.mark.slow
TEXTS = ["a lease that nobody renews", "a fence", "der Zug fährt um acht"]
CLIP = np.concatenate([tone(1.9, seed=1), silence(0.5), tone(1.2, seed=2)])
FILE = as_file(CLIP, "flac")


class TestEmbedding(JobTypeContract):
    job_type = EMBEDDING
    refused = (({"texts": []}, "texts"), ({"dimensions": 0}, "dimensions"), ({"model": ""}, "model"))

    @pytest.fixture
    def model(self):
        return catalogue.default_model("embedding").id

    def params(self, model):
        return {"model": model, "texts": TEXTS * 50}

    def impossible(self, model):
        return {"model": model, "texts": TEXTS, "dimensions": 9999}

    def column(self):
        return pa.array([f"{TEXTS[index % 3]} {index}" for index in range(ROWS - 1)] + [None])

    def bulk(self, client, source, target, model, **options):
        return embed_parquet(client, source, target, column="input", model=model, **options)

    async def door(self, model):
        async with over_asgi(create_app(LocalEmbedder(model), Settings())) as client:
            answer = await client.post("/v1/embeddings", json={"model": "tiny", "input": TEXTS})
            assert answer.status_code == 200, answer.text
            rows = np.array([one["embedding"] for one in answer.json()["data"]])
        expected = np.array(self.run({"model": model, "texts": TEXTS})["embeddings"])
        assert ((rows * expected).sum(axis=1) > 0.999).all()

    def future(self, grid, model):
        return grid.embed(TEXTS * 50, model=model)

    def same(self, value, result):
        return bool(((value * np.array(result["embeddings"])).sum(axis=1) > 0.999).all())


class TestWhisper(JobTypeContract):
    job_type = WHISPER
    refused = (
        ({"audio_url": "https://example.org/a.wav"}, "audio_url"),
        ({"task": "sing"}, "task"),
        ({"temperature": 2}, "temperature"),
    )

    @pytest.fixture
    def model(self, tiny_whisper):
        return str(tiny_whisper.folder)

    def params(self, model):
        audio = base64.b64encode(FILE).decode()
        return {"model": model, "audio_base64": audio, "temperature": 0.7, "seed": 3, "words": True}

    def impossible(self, model):
        return {**self.params(model), "language": "klingon"}

    def column(self):
        return pa.array([as_file(tone(0.5 + 0.2 * index, seed=index)) for index in range(ROWS - 1)] + [b"no sound"])

    def bulk(self, client, source, target, model, **options):
        return transcribe_parquet(client, source, target, audio_column="input", model=model, **options)

    async def door(self, model):
        app = create_app(LocalEmbedder("none"), Settings(), speech=LocalTranscriber(model))
        async with over_asgi(app) as client:
            data = {
                "model": "tiny",
                "response_format": "verbose_json",
                "timestamp_granularities[]": ["segment", "word"],
            }
            answer = await client.post("/v1/audio/transcriptions", files={"file": ("a.flac", FILE)}, data=data)
            assert answer.status_code == 200, answer.text
            told = answer.json()
        expected = self.run({**self.params(model), "temperature": 0})
        assert (told["text"], told["duration"]) == (expected["text"], expected["duration"])
        assert [(one["start"], one["end"], one["text"]) for one in told["segments"]] == [
            (one["start"], one["end"], one["text"]) for one in expected["segments"]
        ]
        assert told["words"] == expected["words"]

    def future(self, grid, model):
        return grid.transcribe(FILE, model=model, temperature=0.7, seed=3, words=True)

    def same(self, value, result):
        return (value.text, value.language, value.duration) == tuple(
            result[name] for name in ("text", "language", "duration")
        )
