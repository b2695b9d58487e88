"""What an engine, or the service in front of several, raises, as an answer of the API."""

from __future__ import annotations

import logging

from ...actors.llm.engine_face import EngineClosed, QueueFull
from ...actors.llm.request import Finished, FinishReason, RequestRefused
from .batch_driver import DeadlineExceeded
from .embedder import Unavailable
from .errors import SERVER, ApiError, from_batcher, internal_error, unavailable

log = logging.getLogger(__name__)

RETRY_AFTER = 2.0
"""Seconds after which a queue that is full may have room again."""


def as_api_error(error: BaseException) -> ApiError:
    """The answer to a request that `error` ended. What nobody foresaw goes to the log, and not to the client."""
    match error:
        case ApiError():
            return error
        case QueueFull():
            message, headers = f"{error}. Try again later.", {"Retry-After": f"{RETRY_AFTER:.0f}"}
            return ApiError(429, message, type="requests", code="rate_limit_exceeded", headers=headers)
        case EngineClosed():
            return unavailable(str(error), retry_after=5.0)
        case RequestRefused():
            return ApiError(400, f"This request can't be served: {error}.", code="invalid_value")
        case DeadlineExceeded() | Unavailable():
            return from_batcher(error)
        case _:
            log.error("a generation failed", exc_info=error)
            return internal_error()


def from_finish(event: Finished) -> ApiError:
    """The error that an end other than a natural one is."""
    match event.reason:
        case FinishReason.TIMEOUT:
            return as_api_error(
                DeadlineExceeded("the answer took longer than allowed (setting api.generation_timeout)")
            )
        case FinishReason.ABORTED:
            return as_api_error(Unavailable("the generation was ended by the service"))
        case _:
            message = f"The generation failed: {event.error or 'the engine did not say why'}."
            return ApiError(500, message, type=SERVER, code="generation_failed")
