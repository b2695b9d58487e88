"""Files and batches by the official client, unchanged, against a real server on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import openai
import pytest
import uvicorn
from hash_embedder import HashEmbedder
from jobs_service import SECRET
from script_engine import TEXT, ScriptEngine

from idlegrid.api.batches import runner as running
from idlegrid.api.http import create_app
from idlegrid.api.http.jobs_door import JobDoor
from idlegrid.api.http.llm_face import EngineBackend
from idlegrid.grid.config import Settings
from idlegrid.grid.store import open_store

pytestmark = pytest.mark.slow
PATIENCE = 60.0
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """The service in a thread of its own, on a free port."""
    folder = tmp_path_factory.mktemp("service")
    before = running.LOOK_EVERY, running.HOLD_EVERY
    running.LOOK_EVERY = running.HOLD_EVERY = 0.05
    with open_store(f"sqlite:///{folder}/jobs.db", timeout=30.0, secret=lambda: SECRET) as store:
        store.upgrade()
        settings = Settings.model_validate({"jobs": {"files_folder": str(folder / "files")}})
        backend, door = EngineBackend(ScriptEngine(), aliases=("script",)), JobDoor(store, settings, secret=SECRET)
        app = create_app(HashEmbedder(), settings, backend, door)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none")
        server, socket = uvicorn.Server(config), config.bind_socket()
        socket.listen()  # from here on the kernel takes connections, whenever the server is up
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            socket.close()
            running.LOOK_EVERY, running.HOLD_EVERY = before
    assert not thread.is_alive()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none yet") as client:
        yield client


def jsonl(endpoint, bodies):
    lines = [{"custom_id": f"r{n}", "method": "POST", "url": endpoint, "body": body} for n, body in enumerate(bodies)]
    return "\n".join(map(json.dumps, lines)).encode()


def uploaded(client, endpoint, bodies):
    return client.files.create(file=("in.jsonl", jsonl(endpoint, bodies)), purpose="batch")


def ended(client, batch):
    deadline = time.monotonic() + PATIENCE
    while (now := client.batches.retrieve(batch.id)).status in (
        "validating",
        "in_progress",
        "finalizing",
        "cancelling",
    ):
        assert time.monotonic() < deadline, now
        time.sleep(0.02)
    return now


def answers(client, file_id):
    return {line["custom_id"]: line for line in map(json.loads, client.files.content(file_id).text.splitlines())}


def test_files(client, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(jsonl(EMBEDDINGS, [{"model": "hash", "input": "x"}]))
    with path.open("rb") as file:
        kept = client.files.create(file=file, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert (kept.filename, kept.bytes, kept.object, kept.purpose) == (path.name, path.stat().st_size, "file", "batch")
    assert kept.expires_at == kept.created_at + 3600
    assert client.files.wait_for_processing(kept.id).status == "processed"
    others = [uploaded(client, EMBEDDINGS, [{"model": "hash", "input": str(n)}]).id for n in range(3)]
    listed = [file.id for file in client.files.list(limit=2)]  # the client asks for page after page
    assert [one for one in listed if one in {kept.id, *others}] == [*reversed(others), kept.id]
    assert next(iter(client.files.list(order="asc", after=others[1]))).id == others[2]
    assert client.files.content(kept.id).read() == path.read_bytes()
    assert client.files.delete(kept.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(kept.id)


def test_a_batch_of_embeddings(client):
    bodies = [{"model": "hash", "input": ["a", "b"]}, {"model": "nothing", "input": "c"}]
    source = uploaded(client, EMBEDDINGS, bodies)
    batch = client.batches.create(
        input_file_id=source.id, endpoint=EMBEDDINGS, completion_window="24h", metadata={"job": "nightly"}
    )
    assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"job": "nightly"})
    done = ended(client, batch)
    assert done.status == "completed"
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (2, 1, 1)
    body = answers(client, done.output_file_id)["r0"]["response"]["body"]
    answer = openai.types.CreateEmbeddingResponse.model_validate(body)
    alone = client.embeddings.create(model="hash", input=["a", "b"], encoding_format="float")
    assert [one.embedding for one in answer.data] == [one.embedding for one in alone.data]
    error = answers(client, done.error_file_id)["r1"]["response"]
    assert (error["status_code"], error["body"]["error"]["code"]) == (404, "model_not_found")
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"


def test_a_batch_of_chats_and_the_list_of_batches(client):
    message = [{"role": "user", "content": "Hi"}]
    source = uploaded(client, CHAT, [{"model": "script", "messages": message}] * 3)
    batch = client.batches.create(input_file_id=source.id, endpoint=CHAT, completion_window="24h")
    done = ended(client, batch)
    body = answers(client, done.output_file_id)["r2"]["response"]["body"]
    completion = openai.types.chat.ChatCompletion.model_validate(body)
    assert completion.choices[0].message.content == TEXT
    second = client.batches.create(input_file_id=source.id, endpoint=CHAT, completion_window="24h")
    ids = [one.id for one in client.batches.list(limit=1)]
    assert ids[:2] == [second.id, batch.id]
    ended(client, second)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(second.id)


def test_what_can_not_be_used_and_what_is_cancelled(client):
    source = client.files.create(file=("in.jsonl", b"{\n"), purpose="batch")
    batch = client.batches.create(input_file_id=source.id, endpoint=EMBEDDINGS, completion_window="24h")
    failed = ended(client, batch)
    assert failed.status == "failed"
    assert failed.errors.data[0].code == "invalid_json_line"
    assert failed.errors.data[0].line == 1
    away = uploaded(client, EMBEDDINGS, [{"model": "hash", "input": f"{n}"} for n in range(20_000)])
    long = client.batches.create(input_file_id=away.id, endpoint=EMBEDDINGS, completion_window="24h")
    assert client.batches.cancel(long.id).status in ("cancelling", "cancelled")
    cancelled = ended(client, long)
    assert cancelled.status == "cancelled"
    counts = cancelled.request_counts
    assert counts.total == counts.completed + counts.failed == 20_000
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-nobody", endpoint=EMBEDDINGS, completion_window="24h")
