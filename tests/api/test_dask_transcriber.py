"""The official client, the HTTP service, a real grid and the tiny Whisper: nothing in between is pretended."""

from __future__ import annotations

import asyncio

import numpy as np
import openai
import pytest
import uvicorn
from leaving import leaves_in_the_middle
from tiny_whisper import as_file, silence, tone

from idlegrid.actors.whisper.model import WhisperModel
from idlegrid.actors.whisper.speech import Wish, WishRefused
from idlegrid.api.dask_embedder import DaskEmbedder
from idlegrid.api.dask_transcriber import DaskTranscriber
from idlegrid.api.http import create_app
from idlegrid.grid.config import Settings

pytestmark = pytest.mark.slow
CLIP = np.concatenate([tone(1.9, seed=1), silence(0.5), tone(1.2, seed=2)])
FILE = ("talk.flac", as_file(CLIP, "flac"))
PATIENCE = 90


@pytest.fixture(scope="module")
def heard(tiny_whisper):
    """What the model says by itself, in words too."""
    return WhisperModel(str(tiny_whisper.folder)).transcribe([CLIP], Wish(words=True))[0]


@pytest.fixture
async def client(grid, tiny_whisper):
    async with DaskEmbedder(grid.address) as tasks:
        speech = DaskTranscriber(tasks, model=str(tiny_whisper.folder))
        config = uvicorn.Config(
            create_app(tasks, Settings(), speech=speech), host="127.0.0.1", port=0, log_level="warning", ws="none"
        )
        server, socket = uvicorn.Server(config), config.bind_socket()
        serving = asyncio.create_task(server.serve(sockets=[socket]))
        url = f"http://127.0.0.1:{socket.getsockname()[1]}/v1"
        try:
            async with openai.AsyncOpenAI(base_url=url, api_key="none yet", max_retries=0, timeout=PATIENCE) as client:
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
                yield client
        finally:
            server.should_exit = True
            await serving


async def test_who_goes_away_is_heard_no_more(client, grid):
    long = ("long.flac", as_file(np.tile(tone(10.0), 60), "flac"))
    asking = client.audio.transcriptions.create(model="whisper-1", file=long, extra_body={"temperature": 0.9})
    assert set(await leaves_in_the_middle(grid, asking)) == {"Cancelled()"}
    assert (await client.audio.transcriptions.create(model="whisper-1", file=FILE)).text, "the workers are free"


async def test_the_official_client_gets_all_that_was_said(client, heard):
    said = await client.audio.transcriptions.create(model="whisper-1", file=FILE)
    assert said.text == heard.text
    told = await client.audio.transcriptions.create(
        model="whisper-1", file=FILE, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (told.text, float(told.duration)) == (heard.text, heard.duration)
    assert [(one.start, one.end, one.text) for one in told.segments] == [
        (one.start, one.end, one.text) for one in heard.segments
    ]
    assert [(one.word, one.start, one.end) for one in told.words] == [
        (one.word, one.start, one.end) for one in heard.words
    ]
    subtitles = await client.audio.transcriptions.create(model="whisper-1", file=FILE, response_format="srt")
    assert subtitles.startswith("1\n00:00:00,")
    assert subtitles.count("-->") == len(heard.segments)
    other = await client.audio.transcriptions.create(model="whisper-1", file=FILE, response_format="vtt")
    assert other.startswith("WEBVTT\n\n00:00:00.")
    with pytest.warns(DeprecationWarning, match="deprecated"):  # says OpenAI of it
        english = await client.audio.translations.create(model="whisper-1", file=FILE)
    assert english.text != said.text


async def test_what_is_wrong_comes_as_the_clients_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="no sound of a known format") as bad:
        await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"this is no sound"))
    assert bad.value.param == "file"
    with pytest.raises(openai.BadRequestError, match="'xx' is not one that this model knows"):
        await client.audio.transcriptions.create(model="whisper-1", file=FILE, language="xx")
    with pytest.raises(openai.NotFoundError):
        await client.audio.transcriptions.create(model="whisper-99", file=FILE)
    with pytest.raises(openai.BadRequestError, match="'stream' is not supported"):
        await client.audio.transcriptions.create(model="whisper-1", file=FILE, stream=True)
    assert [one.id async for one in client.models.list()][-1].startswith("openai/whisper-")


def test_futures_on_the_same_grid(grid, tiny_whisper, heard, tmp_path):
    path = tmp_path / FILE[0]
    path.write_bytes(FILE[1])
    model = str(tiny_whisper.folder)
    assert grid.transcribe(path, model=model, words=True).result(timeout=PATIENCE) == heard
    batches = grid.map_transcribe([FILE[1]] * 3, model=model, batch_size=2, words=True)
    assert [one.result(timeout=PATIENCE) for one in batches] == [[heard] * 2, [heard]]
    with pytest.raises(ValueError, match="recording 0: the file is no sound"):
        grid.transcribe(b"no sound", model=model).result(timeout=PATIENCE)
    with pytest.raises(WishRefused, match="'klingon'"):
        grid.transcribe(path, model=model, language="klingon").result(timeout=PATIENCE)
    with pytest.raises(TypeError, match="for one use `transcribe`"):
        grid.map_transcribe(str(path))
    with pytest.raises(TypeError):
        grid.transcribe(path, model=model, lang="de")
