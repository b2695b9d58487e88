"""The official client, the HTTP service, a real grid and tiny models: pictures are drawn, then looked at."""

from __future__ import annotations

import asyncio
import base64
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import openai
import pytest
import uvicorn
from distributed import LocalCluster
from PIL import Image
from tiny_diffusion import PROMPTS

sys.path.insert(0, str(Path(__file__).parent / "http"))  # a helper of the doors' tests

from leaving import leaves_in_the_middle, tasks_that_run, until
from script_engine import ScriptEngine

from idlegrid.actors.diffusion.model import DiffusionModel
from idlegrid.actors.diffusion.picture import NotDrawn, Wish
from idlegrid.actors.diffusion.tasks import Drawing, DrawingRefused
from idlegrid.actors.vision.tasks import LookRefused
from idlegrid.api import Grid
from idlegrid.api.dask_embedder import DaskEmbedder
from idlegrid.api.dask_painter import DaskPainter, believed
from idlegrid.api.dask_viewer import DaskViewer
from idlegrid.api.http import create_app
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings
from idlegrid.grid.jobs import Ask

pytestmark = pytest.mark.slow
PATIENCE = 90
SIZE = {"width": 32, "height": 24, "steps": 2}


@pytest.fixture(scope="module")
def drawn(tiny_sd):
    """What the model draws by itself."""
    wishes = [Wish(prompt=PROMPTS[0], seed=seed, **SIZE) for seed in (7, 8)]
    return [one.pixels for one in DiffusionModel(str(tiny_sd)).draw(wishes)]


@pytest.fixture
async def client(grid, tiny_sd, tiny_llava):
    async with DaskEmbedder(grid.address) as tasks:
        app = create_app(
            tasks,
            Settings(),
            EngineBackend(ScriptEngine()),
            painter=DaskPainter(tasks, model=str(tiny_sd)),
            viewer=DaskViewer(tasks, model=str(tiny_llava.folder)),
        )
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none"))
        socket = server.config.bind_socket()
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


def pixels(data):
    return np.asarray(Image.open(BytesIO(data)))


async def test_the_official_client_has_pictures_drawn_and_looked_at(client, drawn, tiny_llava):
    made = await client.images.generate(
        model="gpt-image-1", prompt=PROMPTS[0], n=2, size="32x24", extra_body={"seed": 7, "steps": 2}
    )
    files = [base64.b64decode(one.b64_json) for one in made.data]
    assert all(np.array_equal(pixels(file), one) for file, one in zip(files, drawn, strict=True))
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{made.data[0].b64_json}"}},
        {"type": "text", "text": "why?"},
    ]
    ask = {"model": str(tiny_llava.folder), "messages": [{"role": "user", "content": parts}], "max_tokens": 8}
    said = await client.chat.completions.create(**ask, temperature=0)
    assert said.choices[0].message.content == tiny_llava.answer(tiny_llava.asked("why?"), drawn[:1], 8)
    stream = await client.chat.completions.create(**ask, temperature=0, stream=True)
    told = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(told) == said.choices[0].message.content
    parts[0]["image_url"]["url"] = "data:image/png;base64," + base64.b64encode(files[0][:60]).decode()
    with pytest.raises(openai.BadRequestError, match="the picture is broken"):
        await client.chat.completions.create(**ask)


async def test_who_goes_away_is_drawn_nothing_more(client, grid):
    ask = {"model": "gpt-image-1", "prompt": "a fox"}
    asking = client.images.generate(**ask, n=4, size="512x512", extra_body={"steps": 100})
    assert set(await leaves_in_the_middle(grid, asking)) == {"Cancelled()"}
    made = await client.images.generate(**ask, size="32x24", extra_body={"steps": 1})
    assert len(made.data) == 1, "the workers are free for the next one"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_goes_away_is_answered_nothing_more(client, grid, tiny_llava, stream):
    data = base64.b64encode(png()).decode()
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]
    ask = {"model": str(tiny_llava.folder), "messages": [{"role": "user", "content": parts}], "temperature": 1}
    asking = client.chat.completions.create(**ask, max_tokens=250, n=128, stream=stream)
    assert set(await leaves_in_the_middle(grid, asking)) == {"Cancelled()"}
    said = await client.chat.completions.create(**ask, max_tokens=1)
    assert said.choices[0].finish_reason in ("stop", "length")


async def test_control_dask_itself_lets_a_cancelled_task_run_on(grid, tmp_path):
    def deaf(ends: str) -> None:
        import time
        from pathlib import Path

        while not Path(ends).exists():
            time.sleep(0.02)

    await until(grid, False)
    future = grid.submit(deaf, str(tmp_path / "end"), ask=Ask(type="image_gen"))
    try:
        keys = await until(grid, True)
        await asyncio.to_thread(future.cancel)

        def cancelled(dask_worker):
            return [task.state for task in dask_worker.state.executing]

        async with asyncio.timeout(PATIENCE):
            while ["cancelled"] not in (await asyncio.to_thread(grid.client.run, cancelled)).values():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await tasks_that_run(grid) == keys
    finally:
        (tmp_path / "end").touch()
    await until(grid, False)


def png():
    file = BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def near():
    """A stock cluster inside of this process, which has imported diffusers already."""
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Grid(cluster.scheduler_address) as grid:
        yield grid


def test_futures(near, drawn, tiny_sd, tiny_llava, tmp_path):
    grid, model, eye = near, str(tiny_sd), str(tiny_llava.folder)
    one = grid.generate_image(PROMPTS[0], model=model, seed=7, **SIZE).result(timeout=PATIENCE)
    assert (one.width, one.height, one.seed) == (32, 24, 7)
    assert np.array_equal(pixels(one.data), drawn[0])
    batches = grid.map_generate_image([PROMPTS[0]] * 2, model=model, batch_size=1, seed=7, **SIZE)
    assert [pixels(batch.result(timeout=PATIENCE)[0].data).tolist() for batch in batches] == [
        one.tolist() for one in drawn
    ]
    path = tmp_path / "a.png"
    path.write_bytes(one.data)
    said = grid.analyze_image(path, "why?", model=eye, max_tokens=8).result(timeout=PATIENCE)
    assert said.text == tiny_llava.answer(tiny_llava.asked("why?"), drawn[:1], 8)
    with pytest.raises(DrawingRefused, match="multiples of 4"):
        grid.generate_image("a fox", model=model, width=33).result(timeout=PATIENCE)
    with pytest.raises(LookRefused, match="no picture"):
        grid.analyze_image(b"no picture", model=eye).result(timeout=PATIENCE)
    with pytest.raises(ValueError, match="needs a question"):
        grid.analyze_image(path, task="image_qa", model=eye)
    with pytest.raises(TypeError, match="for one use `generate_image`"):
        grid.map_generate_image("a fox", model=model)


def test_what_a_worker_sends_is_looked_at_first():
    wish = Wish(prompt="a fox", seed=1, **SIZE)
    [bad] = believed([Drawing(b"<html>", 32, 24, 1)], [wish])
    assert isinstance(bad, NotDrawn)
    assert not bad.refused
    assert "is no PNG" in bad.why
