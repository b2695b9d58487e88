"""The official client against a real server on loopback with the real MiniLM: nothing in between is pretended."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from idlegrid.actors.embedding import EmbeddingModel
from idlegrid.api.http import create_app
from idlegrid.api.http.embedder import EmbedAnswer, Input, Readiness, ServedModel
from idlegrid.grid import catalogue
from idlegrid.grid.config import Settings

pytestmark = pytest.mark.slow

MODEL = catalogue.default_model("embedding").id
TEXTS = ["a lease that nobody renews", "der Zug fährt um acht", "f(x) = x²", "no"]


class InProcess:
    """The real model on a thread of this process."""

    def __init__(self) -> None:
        self.model = EmbeddingModel("all-MiniLM-L6-v2", device="cpu")
        self.batches: list[int] = []

    async def models(self) -> list[ServedModel]:
        facts = self.model.facts
        return [
            ServedModel(
                id=MODEL,
                aliases=catalogue.model(MODEL).aliases,
                dimension=facts.dimension,
                max_tokens=facts.max_tokens,
                vocab_size=facts.vocab_size,
            )
        ]

    async def ready(self, model_id: str | None = None) -> Readiness:
        return Readiness(True)

    async def embed(
        self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True, background: bool = False
    ) -> EmbedAnswer:
        self.batches.append(len(inputs))
        return await asyncio.to_thread(self._embed, inputs, normalize)

    def _embed(self, inputs: Sequence[Input], normalize: bool) -> EmbedAnswer:
        ids = [self.model.tokenize([one])[0] if isinstance(one, str) else one for one in inputs]
        return EmbedAnswer(self.model.embed_tokens(ids, normalize=normalize), [len(one) for one in ids])


@pytest.fixture(scope="module")
def backend() -> InProcess:
    return InProcess()


@pytest.fixture(scope="module")
def url(backend: InProcess) -> Iterator[str]:
    """The service in a thread of its own, on a free port."""
    config = uvicorn.Config(create_app(backend, Settings()), host="127.0.0.1", port=0, log_level="warning", ws="none")
    config.server_header = False
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    socket.listen()  # from here on the kernel takes connections, whenever the server is up
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=30)
    socket.close()
    assert not thread.is_alive()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none yet", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def reference(backend: InProcess) -> np.ndarray:
    return backend.model.embed(TEXTS)


def rows(answer) -> np.ndarray:
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for the order in which a batch of another shape sums."""
    return bool(((a * b).sum(axis=1) > 0.9999).all())


def test_the_clients_default_is_base64_and_gives_the_models_vectors(client, reference):
    answer = client.embeddings.create(model=MODEL, input=TEXTS)
    assert close(rows(answer), reference)
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 4


def test_float_and_base64_are_bit_for_bit_the_same(client):
    plain = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float").data[0].embedding
    coded = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="base64").data[0].embedding
    assert np.array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), np.float32(plain))


def test_token_ids_give_what_their_text_gives(client, backend, reference):
    ids = backend.model.tokenize(TEXTS)
    assert close(rows(client.embeddings.create(model=MODEL, input=ids)), reference)
    assert close(rows(client.embeddings.create(model=MODEL, input=ids[0])), reference[:1])


@pytest.mark.parametrize("dimensions", [1, 64, 384])
def test_dimensions(client, reference, dimensions):
    answer = rows(client.embeddings.create(model=MODEL, input=TEXTS, dimensions=dimensions))
    kept = reference[:, :dimensions]
    assert answer.shape == (4, dimensions)
    assert close(answer, kept / np.linalg.norm(kept, axis=1, keepdims=True))
    assert np.linalg.norm(answer, axis=1) == pytest.approx(1, abs=1e-5)


def test_an_alias_is_enough(client, reference):
    assert close(rows(client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS)), reference)


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="all-MiniLM-L7-v2", input="x")
    assert unknown.value.code == "model_not_found"
    assert unknown.value.response.headers["x-request-id"]
    with pytest.raises(openai.BadRequestError) as too_many:
        client.embeddings.create(model=MODEL, input="x", dimensions=385)
    assert too_many.value.param == "dimensions"
    with pytest.raises(openai.BadRequestError, match="maximum context length is 256"):
        client.embeddings.create(model=MODEL, input=[5] * 257)
    with pytest.raises(openai.BadRequestError, match="nonsense"):
        client.embeddings.create(model=MODEL, input="x", extra_body={"nonsense": 1})


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_requests_of_many_clients_are_computed_together(client, backend, reference):
    backend.batches.clear()
    with ThreadPoolExecutor(16) as pool:
        texts = TEXTS * 16
        answers = list(pool.map(lambda text: client.embeddings.create(model=MODEL, input=text), texts))
    assert close(np.concatenate([rows(answer) for answer in answers]), np.tile(reference, (16, 1)))
    assert sum(backend.batches) == 64
    assert len(backend.batches) < 64


async def test_the_asynchronous_client(url, reference):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none yet") as client:
        assert close(rows(await client.embeddings.create(model=MODEL, input=TEXTS)), reference)


def test_a_large_request_over_the_wire(client):
    answer = rows(client.embeddings.create(model=MODEL, input=[f"number {index}" for index in range(300)]))
    assert answer.shape == (300, 384)
    assert len(np.unique(answer, axis=0)) == 300


def test_a_server_that_says_nothing_of_itself(url):
    answer = httpx.get(f"{url}/healthz")
    assert "server" not in answer.headers
    assert answer.json() == {"status": "ok"}
