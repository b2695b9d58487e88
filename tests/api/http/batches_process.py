"""A service in a process of its own, to be killed: ``batches_process.py FOLDER``. It writes its port into ``port``."""

import asyncio
import sys
from pathlib import Path

import uvicorn
from hash_embedder import HashEmbedder

from idlegrid.api.batches import runner as running
from idlegrid.api.batches.embedding_lines import EmbeddingLines
from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.grid.config import Settings
from idlegrid.grid.store import open_store

running.LOOK_EVERY, running.LEASE, running.HOLD_EVERY = 0.05, 1.0, 0.2
EmbeddingLines.part_lines = 10


class SlowEmbedder(HashEmbedder):
    async def embed(self, model_id, inputs, *, normalize=True, background=False):
        await asyncio.sleep(0.4)
        return await super().embed(model_id, inputs, normalize=normalize, background=background)


async def main() -> None:
    folder = Path(sys.argv[1])
    store = open_store(f"sqlite:///{folder}/jobs.db", timeout=30.0, secret=lambda: b"s" * 32)
    store.upgrade()
    settings = Settings.model_validate({"jobs": {"files_folder": str(folder / "files")}})
    app = create_app(SlowEmbedder(), settings, jobs=JobDoor(store, settings, secret=b"s" * 32))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    socket = config.bind_socket()
    (folder / "port.new").write_text(str(socket.getsockname()[1]))
    (folder / "port.new").rename(folder / "port")
    await uvicorn.Server(config).serve(sockets=[socket])


if __name__ == "__main__":
    asyncio.run(main())
