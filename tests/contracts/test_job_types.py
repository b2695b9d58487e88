"""The job types keep their contract."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import pyarrow as pa
import pytest
from in_process import LocalEmbedder, LocalPainter, LocalTranscriber, LocalViewer
from job_type_contract import ROWS, JobTypeContract, grid_here, over_asgi  # noqa: F401 - a fixture
from script_engine import ScriptEngine
from tiny_llava import as_png, scene
from tiny_whisper import as_file, silence, tone

from idlegrid.actors.llm.resident import EngineThread
from idlegrid.actors.llm.torch_engine import TorchEngine, TorchOptions
from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid import catalogue
from idlegrid.grid.config import Settings
from idlegrid.grid.job_types import Cancelled, RunContext
from idlegrid.pipelines.bulk import caption_parquet, chat_parquet, embed_parquet, generate_parquet, transcribe_parquet
from idlegrid.pipelines.embedding import JOB_TYPE as EMBEDDING
from idlegrid.pipelines.image_gen import JOB_TYPE as IMAGE_GEN
from idlegrid.pipelines.llm_job import JOB_TYPE as LLM
from idlegrid.pipelines.vision import JOB_TYPE as VISION
from idlegrid.pipelines.whisper import JOB_TYPE as WHISPER

pytestmark = pytest.mark.slow
TEXTS = ["a lease that nobody renews", "a fence", "der Zug fährt um acht"]
CLIP = np.concatenate([tone(1.9, seed=1), silence(0.5), tone(1.2, seed=2)])
FILE = as_file(CLIP, "flac")
PICTURE = as_png(scene())


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


class TestImageGen(JobTypeContract):
    job_type = IMAGE_GEN
    refused = (({"prompt": ""}, "prompt"), ({"width": 33}, "width"), ({"num_inference_steps": 0}, "steps"))

    @pytest.fixture
    def model(self, tiny_flux):
        return str(tiny_flux)

    def params(self, model):
        return {"model": model, "prompt": TEXTS[0], "width": 32, "height": 24, "num_inference_steps": 3, "seed": 5}

    def impossible(self, model):
        return {**self.params(model), "negative_prompt": "a dog"}

    def column(self):
        return pa.array([f"{TEXTS[index % 3]} {index}" for index in range(ROWS - 1)] + [None])

    def bulk(self, client, source, target, model, **options):
        size = {"width": 32, "height": 24, "steps": 2}
        return generate_parquet(client, source, target, prompt_column="input", model=model, **size, **options)

    async def door(self, model):
        app = create_app(LocalEmbedder("none"), Settings(), painter=LocalPainter(model))
        async with over_asgi(app) as client:
            body = {"model": "tiny", "prompt": TEXTS[0], "size": "32x24", "steps": 3, "seed": 4, "n": 2}
            answer = await client.post("/v1/images/generations", json=body)
            assert answer.status_code == 200, answer.text
            first, second = answer.json()["data"]
        expected = self.run(self.params(model))
        assert (second["seed"], second["b64_json"]) == (expected["seed"], expected["image_base64"])
        assert first["b64_json"] != second["b64_json"]

    def future(self, grid, model):
        return grid.generate_image(TEXTS[0], model=model, width=32, height=24, steps=3, seed=5)

    def same(self, value, result):
        return (value.data, value.seed) == (base64.b64decode(result["image_base64"]), result["seed"])


class TestVision(JobTypeContract):
    job_type = VISION
    refused = (
        ({"image_url": "https://example.org/a.png"}, "image_url"),
        ({"task": "sing"}, "task"),
        ({"question": None}, "question"),
    )

    @pytest.fixture
    def model(self, tiny_llava):
        return str(tiny_llava.folder)

    def params(self, model):
        image = base64.b64encode(PICTURE).decode()
        return {"model": model, "image_base64": image, "task": "image_qa", "question": "why?", "max_tokens": 12}

    def impossible(self, model):
        return {**self.params(model), "question": "is this an <image>?"}

    def column(self):
        return pa.array([as_png(scene(index, 40, 48 + 8 * index)) for index in range(ROWS - 1)] + [b"no picture"])

    def bulk(self, client, source, target, model, **options):
        return caption_parquet(client, source, target, image_column="input", model=model, max_tokens=6, **options)

    async def door(self, model):
        backend = EngineBackend(ScriptEngine())
        app = create_app(LocalEmbedder("none"), Settings(), backend, viewer=LocalViewer(model))
        url = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "why?"}]
        async with over_asgi(app) as client:
            body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 12}
            answer = await client.post("/v1/chat/completions", json=body | {"temperature": 0})
            assert answer.status_code == 200, answer.text
            told = answer.json()
        expected = self.run(self.params(model))
        assert told["choices"][0]["message"]["content"] == expected["response"]
        assert told["usage"] == expected["usage"]

    def future(self, grid, model):
        return grid.analyze_image(PICTURE, "why?", model=model, max_tokens=12)

    def same(self, value, result):
        return (value.text, value.completion_tokens) == (result["response"], result["usage"]["completion_tokens"])


class TestLlm(JobTypeContract):
    job_type = LLM
    refused = (({"messages": []}, "messages"), ({"temperature": 3}, "temperature"), ({"top_p": 0}, "top_p"))
    of_the_way = ("cached_tokens",)

    @pytest.fixture
    def model(self, language_model):
        return str(language_model.folder)

    def params(self, model):
        return {"model": model, "prompt": TEXTS[0], "max_tokens": 24, "seed": 3, "stream": True}

    def impossible(self, model):
        return {**self.params(model), "prompt": "word " * 2000}

    def column(self):
        return pa.array([f"{TEXTS[index % 3]} {index}" for index in range(ROWS - 1)] + [None])

    def bulk(self, client, source, target, model, **options):
        return chat_parquet(client, source, target, prompt_column="input", model=model, max_tokens=6, **options)

    def test_it_tells_how_far_it_is(self, model):
        """Nobody knows how long an answer becomes: it tells its text instead."""
        told = []
        result = self.run(self.params(model), RunContext(tokens=told.append))
        assert "".join(told) == result["response"] != ""

    def test_it_stops_when_it_is_told_to(self, model):
        """By the clock: how often it looks depends on how fast it is."""
        for after in (0, 3):
            told = []
            context = RunContext(cancelled=lambda told=told, after=after: len(told) >= after, tokens=told.append)
            with pytest.raises(Cancelled):
                self.run({**self.params(model), "max_tokens": 400, "temperature": 2.0}, context)
        assert self.run(self.params(model)), "and the model still works"

    async def door(self, model):
        thread = EngineThread(lambda: TorchEngine(model, TorchOptions(dtype="float32", num_blocks=64, max_sequences=4)))
        app = create_app(LocalEmbedder("none"), Settings(), EngineBackend(thread.engine, aliases=("tiny",)))

        async def ask():
            async with over_asgi(app) as client:
                body = {"model": "tiny", "messages": [{"role": "user", "content": TEXTS[0]}], "max_tokens": 24}
                return await client.post(
                    "/v1/chat/completions", json=body | {"temperature": 0.7, "top_p": 0.9, "seed": 3}
                )

        try:
            answer = await asyncio.wrap_future(thread.start(ask()))
        finally:
            thread.close()
        assert answer.status_code == 200, answer.text
        expected = self.run(self.params(model))
        assert answer.json()["choices"][0]["message"]["content"] == expected["response"]
        assert answer.json()["usage"]["total_tokens"] == expected["usage"]["total_tokens"]

    def future(self, grid, model):
        return grid.chat(TEXTS[0], model=model, max_tokens=24, temperature=0.7, top_p=0.9, seed=3)

    def same(self, value, result):
        return (value.text, value.completion_tokens) == (result["response"], result["usage"]["completion_tokens"])
