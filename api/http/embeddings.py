"""`POST /v1/embeddings`, as OpenAI's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import Field, StrictInt, WithJsonSchema
from pydantic_core import to_json

from ...grid.config.service import Api
from .batcher import Batcher
from .bodies import Body
from .embedder import Input, ServedModel
from .errors import ApiError
from .models import Models

T = TypeVar("T")

MAX_TOKEN_ID = 2**31 - 1

_INPUT_SCHEMA = {
    "description": "A text, a list of texts, the token ids of one text, or a list of those.",
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ],
}


class EmbeddingRequest(Body):
    """The body of `POST /v1/embeddings`."""

    model: Annotated[str, Field(description="Id or alias of a model that `GET /v1/models` lists.")]
    input: Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, Field(description="base64: little-endian float32 values.")
    ] = None
    dimensions: Annotated[
        StrictInt | None, Field(ge=1, description="Keep the first values of each vector and normalise it again.")
    ] = None
    user: Annotated[str | None, Field(description="Taken and not used.")] = None


def embeddings_router(models: Models, batcher: Batcher, limits: Api) -> APIRouter:
    """The route, bound to what answers it."""
    router = APIRouter(prefix="/v1", tags=["embeddings"])

    @router.post("/embeddings")
    async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of texts, of length 1."""
        model = await models.served(body.model)
        inputs = parse_input(body.input, limits.max_inputs)
        check_against(model, inputs, body.dimensions)
        await models.check_ready(model.id)
        answer = await unless_gone(request, batcher.embed(model.id, inputs, within=limits.request_timeout))
        vectors = shortened(answer.vectors, body.dimensions)
        # a large answer takes long to write, so not on the loop that serves everybody
        content = await asyncio.to_thread(rendered, model.id, vectors, answer.tokens, body.encoding_format or "float")
        return Response(content, media_type="application/json")

    return router


def parse_input(value: Any, max_inputs: int, *, param: str = "input") -> Sequence[Input]:
    """The inputs of a request, from its field `param`.

    Raises ApiError for what the API does not take, never with a word of the text itself.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise _bad_input(
            "must be a string, a list of strings, a list of token ids or a list of lists of token ids", param
        )
    if not value:
        raise _bad_input("is an empty list", param)
    if type(value[0]) is int:
        value = [value]
    if len(value) > max_inputs:
        raise _bad_input(f"has {len(value)} entries, at most {max_inputs} are allowed", param)
    is_good = _is_text if isinstance(value[0], str) else _is_tokens
    bad = next((index for index, one in enumerate(value) if not is_good(one)), None)
    if bad is not None:
        what = (
            "a text (Unicode, at least one character)"
            if is_good is _is_text
            else "a list of token ids (integers from 0, at least one)"
        )
        raise _bad_input(f"entry {bad} is not {what}", param)
    inputs: list[Input] = value
    return inputs


def check_against(model: ServedModel, inputs: Sequence[Input], dimensions: int | None) -> None:
    """Refuse what this model cannot do, as far as it is known before the model has run. Raises ApiError."""
    if dimensions is not None and model.dimension is not None and dimensions > model.dimension:
        raise _bad_dimensions(dimensions, model.dimension)
    for index, one in enumerate(inputs):
        if isinstance(one, str):
            continue
        if model.max_tokens is not None and len(one) > model.max_tokens:
            raise ApiError(
                400,
                f"This model's maximum context length is {model.max_tokens} tokens, however entry {index} of your "
                f"input has {len(one)} tokens. Please reduce the length of the input.",
                param="input",
                code="context_length_exceeded",
            )
        if model.vocab_size is not None and max(one) >= model.vocab_size:
            raise _bad_input(f"entry {index} has token id {max(one)}, this model's ids end at {model.vocab_size - 1}")


def shortened(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first `dimensions` values of each vector (n, d), of length 1 again. Raises ApiError when there are fewer."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        raise _bad_dimensions(dimensions, vectors.shape[1])
    kept = vectors[:, :dimensions]
    unit: NDArray[np.float32] = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return unit


def rendered(model_id: str, vectors: NDArray[np.float32], tokens: Sequence[int], encoding: str) -> bytes:
    """The body of the answer, in JSON."""
    values: Sequence[Any]
    if encoding == "base64":
        values = [base64.b64encode(row.tobytes()).decode() for row in np.asarray(vectors, dtype="<f4")]
    else:
        values = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)]
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    return to_json({"object": "list", "data": data, "model": model_id, "usage": usage})


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client closes the connection. Raises ApiError then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "The client closed the connection.", code="client_closed_request")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _is_text(one: Any) -> bool:
    if not isinstance(one, str) or one == "":
        return False
    try:
        one.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: valid in JSON, not a text
        return False
    return True


def _is_tokens(one: Any) -> bool:
    # a bool is an int to isinstance, not to the API
    return isinstance(one, list) and set(map(type, one)) == {int} and min(one) >= 0 and max(one) <= MAX_TOKEN_ID


def _bad_input(what: str, param: str = "input") -> ApiError:
    return ApiError(400, f"Invalid value for {param!r}: it {what}.", param=param, code="invalid_value")


def _bad_dimensions(wanted: int, most: int) -> ApiError:
    message = f"Invalid value for 'dimensions': {wanted}. This model's vectors have {most} values."
    return ApiError(400, message, param="dimensions", code="invalid_value")
