"""A service in a process of its own, to be killed. It writes its port into ``port``."""

import asyncio
import os
from pathlib import Path

import uvicorn
from hash_embedder import HashEmbedder

from idlegrid.api.batches import clearing
from idlegrid.api.batches import folder as folders
from idlegrid.api.batches import runner as running
from idlegrid.api.batches.embedding_lines import EmbeddingLines
from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.grid.config import Settings
from idlegrid.grid.failpoints import VARIABLE
from idlegrid.grid.store import open_store

running.LOOK_EVERY, running.LEASE, running.HOLD_EVERY = 0.05, 0.5, 0.1
folders.ABANDONED, clearing.CLEAR_EVERY = 1.0, 0.1
EmbeddingLines.part_lines = 10


class SlowEmbedder(HashEmbedder):
    async def embed(self, model_id, inputs, *, normalize=True, background=False):
        await asyncio.sleep(0.1)
        return await super().embed(model_id, inputs, normalize=normalize, background=background)


def run(folder: Path, failpoint: str) -> None:
    """Serve until the process is killed, or comes past the failpoint."""
    os.environ[VARIABLE] = failpoint
    asyncio.run(_serve(folder))


async def _serve(folder: Path) -> None:
    store = open_store(f"sqlite:///{folder}/jobs.db", timeout=30.0, secret=lambda: b"s" * 32)
    store.upgrade()
    settings = Settings.model_validate({"jobs": {"files_folder": str(folder / "files")}})
    app = create_app(SlowEmbedder(), settings, jobs=JobDoor(store, settings, secret=b"s" * 32))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    socket = config.bind_socket()
    (folder / "port.new").write_text(str(socket.getsockname()[1]))
    (folder / "port.new").rename(folder / "port")
    await uvicorn.Server(config).serve(sockets=[socket])
