"""Errors in the shape of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .batch_driver import DeadlineExceeded
from .batching import QueueFull
from .bodies import UNKNOWN_PARAMETER, UNSUPPORTED_PARAMETER
from .embedder import BadInput, Unavailable

INVALID = "invalid_request_error"
SERVER = "server_error"


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,  # noqa: A002 - the field of OpenAI's errors
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def unavailable(reason: str, retry_after: float) -> ApiError:
    """503: nobody can do the work now."""
    headers = _retry_after(retry_after)
    return ApiError(503, reason, type=SERVER, code="service_unavailable", headers=headers)


def internal_error() -> ApiError:
    """500, without a word on what went wrong: that is in the log, under the request's id."""
    message = "The server had an error while processing your request. Its log knows more, under this x-request-id."
    return ApiError(500, message, type=SERVER, code="internal_error")


def from_batcher(error: QueueFull | DeadlineExceeded | Unavailable | BadInput) -> ApiError:
    """What the batcher or the embedder raised, as an answer."""
    match error:
        case QueueFull():
            headers = _retry_after(error.retry_after)
            return ApiError(
                429, f"{error}. Try again later.", type="requests", code="rate_limit_exceeded", headers=headers
            )
        case DeadlineExceeded():
            return ApiError(504, f"The request timed out: {error}.", type=SERVER, code="timeout")
        case Unavailable():
            return unavailable(str(error), error.retry_after)
        case BadInput():
            place = "" if error.index is None else f"entry {error.index}: "
            return ApiError(400, f"Invalid value for 'input': {place}{error}", param="input", code="invalid_input")


def handle_errors(app: FastAPI) -> None:
    """Let everything that the routes and the framework refuse be answered in this shape."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(QueueFull)
    @app.exception_handler(DeadlineExceeded)
    @app.exception_handler(Unavailable)
    @app.exception_handler(BadInput)
    async def not_embedded(_: Request, error: QueueFull | DeadlineExceeded | Unavailable | BadInput) -> JSONResponse:
        return from_batcher(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return from_validation(error.errors()[0], error.body).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return from_http(request, error).response()


def from_http(request: Request, error: HTTPException) -> ApiError:
    """What the framework itself refuses: an unknown path, a wrong method, a body that it cannot read."""
    headers = dict(error.headers or {})
    if error.status_code == 404:
        message = f"Unknown request URL: {request.method} {request.url.path[:200]}."
        return ApiError(404, message, code="unknown_url", headers=headers)
    if error.status_code == 405:
        message = f"{request.method} is not allowed on {request.url.path[:200]}. Allowed: {headers.get('allow', '')}."
        return ApiError(405, message, code="method_not_supported", headers=headers)
    code = "request_too_large" if error.status_code == 413 else None
    return ApiError(error.status_code, str(error.detail), code=code, headers=headers)


def from_validation(detail: Mapping[str, Any], body: Any) -> ApiError:
    """The first thing that is wrong with a body. Never tells what the client sent, but for the names of fields."""
    kind, place = detail["type"], [str(part) for part in detail["loc"] if part != "body"]
    field = place[0] if place else None
    if kind == "json_invalid":
        return ApiError(400, "The body of the request is not valid JSON.", code="invalid_json")
    if kind in (UNKNOWN_PARAMETER, UNSUPPORTED_PARAMETER):
        return ApiError(400, detail["msg"], param=".".join([*place, detail["ctx"]["name"]]), code=kind)
    if kind == "missing" and field:
        return ApiError(400, f"Missing required parameter: {field!r}.", param=field, code="missing_required_parameter")
    if field is None:
        message = "The body must be a JSON object, sent with the header `Content-Type: application/json`."
        return ApiError(400, message, code="invalid_body")
    return ApiError(400, f"Invalid value for {field!r}: {detail['msg']}.", param=field, code="invalid_value")


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(min(60, max(1, math.ceil(seconds))))}
