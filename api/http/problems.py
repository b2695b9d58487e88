"""Errors of the jobs API as problem details (RFC 9457), each with a stable code (docs/problems.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match

from ...grid.store import StoreUnavailable
from .bodies import UNKNOWN_PARAMETER
from .errors import INVALID, SERVER, ApiError

MEDIA_TYPE = "application/problem+json"
PREFIX = "/api/"
"""Paths whose errors have this form; the others have OpenAI's."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_ERRORS = 20
"""Fields that one answer tells of."""
RETRY_STORE = 2
"""Seconds after which a client may try again when the database is away."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that can be wrong."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "invalid_json": Kind(400, "The body is not valid JSON"),
        "bad_request": Kind(400, "The request can't be read"),
        "api_key_required": Kind(401, "An API key is needed"),
        "invalid_api_key": Kind(401, "The API key is not valid"),
        "invalid_worker_token": Kind(401, "The worker's token is not valid"),
        "invalid_enrolment_token": Kind(401, "The enrolment token lets nobody in"),
        "invalid_refresh_token": Kind(401, "The refresh token renews nothing"),
        "invalid_signature": Kind(401, "The request is not signed as it should be"),
        "clock_skew": Kind(401, "The worker's clock is wrong"),
        "replayed": Kind(401, "The signed request was seen before"),
        "invalid_attempt_token": Kind(401, "The attempt's token is not valid"),
        "scope_missing": Kind(403, "The API key does not allow this"),
        "pull_closed": Kind(403, "Workers can't ask for jobs here"),
        "worker_blocked": Kind(403, "The worker is blocked"),
        "too_many_workers": Kind(403, "The owner has too many workers"),
        "unknown_url": Kind(404, "There is nothing at this address"),
        "job_not_found": Kind(404, "There is no such job"),
        "key_not_found": Kind(404, "There is no such API key"),
        "no_direct_worker": Kind(404, "No worker offers direct mode for this"),
        "worker_not_found": Kind(404, "There is no such worker"),
        "enrolment_not_found": Kind(404, "There is no such enrolment"),
        "deployment_not_found": Kind(404, "There is no such deployment"),
        "method_not_allowed": Kind(405, "The method is not allowed here"),
        "stale": Kind(409, "The attempt is over"),
        "already_deployed": Kind(409, "The model is deployed already"),
        "version_conflict": Kind(412, "Somebody else changed it first"),
        "request_too_large": Kind(413, "The request is too large"),
        "unsupported_media_type": Kind(415, "The body must be JSON"),
        "misdirected": Kind(421, "The host name is not known here"),
        "invalid_request": Kind(422, "The request is not valid"),
        "unknown_job_type": Kind(422, "There is no such job type"),
        "unknown_model": Kind(422, "There is no such model"),
        "fetch_failed": Kind(422, "The file behind an address did not come"),
        "idempotency_conflict": Kind(422, "The idempotency key was used for another request"),
        "invalid_result": Kind(422, "The result does not fit the job type"),
        "rate_limited": Kind(429, "Too many requests"),
        "locked_out": Kind(429, "Too many failed authentications"),
        "queue_full": Kind(429, "Too many jobs wait"),
        "internal_error": Kind(500, "The server had an error"),
        "store_unavailable": Kind(503, "The store of jobs is away"),
        "no_worker": Kind(503, "No worker can take this now"),
        "direct_workers_busy": Kind(503, "No worker of direct mode can take this now"),
        "still_running": Kind(504, "The job has not ended in time"),
    }
)


class FieldError(BaseModel):
    """What is wrong with one field."""

    location: str = Field(description="`body`, `query`, `path` or `header`.")
    field: str = Field(description="Path of the field, e.g. `params.texts.0`; empty: the whole.")
    code: str = Field(description="Stable name of what is wrong with it.")
    detail: str


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(description="`urn:idlegrid:problem:` and the code.")
    code: str = Field(description="Stable; docs/problems.md lists them all.")
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = Field(None, description="With `invalid_request`: the fields.")
    job_id: str | None = Field(None, description="The job that lives on, where there is one.")


class Problem(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        job_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.headers = KINDS[code], dict(headers or {})
        self.document = ProblemDocument(
            type=f"urn:idlegrid:problem:{code}",
            code=code,
            title=self.kind.title,
            status=self.kind.status,
            detail=printable(detail),
            errors=list(errors) or None,
            job_id=job_id,
        )

    def response(self) -> Response:
        body = self.document.model_dump(mode="json", exclude_none=True)
        return JSONResponse(body, self.kind.status, headers=self.headers, media_type=MEDIA_TYPE)


Responses = dict[int | str, dict[str, Any]]
"""What a route may answer beside its model, by status."""


def problems(*codes: str, beside: Responses | None = None) -> Responses:
    """`responses` of a route: the problems that it answers with, those that every route has, and others."""
    told: Responses = dict(beside or {})
    for code in (*codes, "invalid_request", "internal_error", "store_unavailable"):
        kind = KINDS[code]
        known = told.setdefault(kind.status, {"model": ProblemDocument, "description": ""})
        known["description"] = f"{known['description']}, `{code}`".removeprefix(", ")
    return told


def retry_after(seconds: float, *, most: int = 3600) -> dict[str, str]:
    """The header that tells a client when to come again."""
    return {"Retry-After": str(min(most, max(1, math.ceil(seconds))))}


def store_unavailable() -> Problem:
    """503: nothing was accepted, or it is not known whether. An idempotency key makes the repeat harmless."""
    detail = "The database doesn't answer. Repeat the request, a submission with the same Idempotency-Key."
    return Problem("store_unavailable", detail, headers=retry_after(RETRY_STORE))


def handle_problems(app: FastAPI) -> None:
    """Let everything under `PREFIX` be refused in this form. Comes after `handle_errors`, which has all other paths."""
    elsewhere_invalid = app.exception_handlers[RequestValidationError]
    elsewhere_http = app.exception_handlers[HTTPException]

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(StoreUnavailable)
    async def away(request: Request, _: StoreUnavailable) -> Response:
        return in_form(request.url.path, store_unavailable())

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if not request.url.path.startswith(PREFIX):
            return await elsewhere_invalid(request, error)  # type: ignore[misc, no-any-return]
        found = error.errors()
        if found[0]["loc"] == ("body",) and not _is_json(request):
            detail = "Send the body as JSON, with the header Content-Type: application/json."
            return Problem("unsupported_media_type", detail).response()
        return from_validation(found).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if not request.url.path.startswith(PREFIX):
            return await elsewhere_http(request, error)  # type: ignore[misc, no-any-return]
        return from_http(request, error, methods_at(app, request)).response()


def from_validation(found: Sequence[Mapping[str, Any]], inside: str = "") -> Problem:
    """422 with the fields; 400 where the body is no JSON. Never tells what the client sent, but for names of fields.

    `inside`: the field of the body that was checked by itself.
    """
    if any(item["type"] == "json_invalid" for item in found):
        return Problem("invalid_json", "The body of the request is not valid JSON.")
    errors = [_field_error(item, inside) for item in found[:MAX_ERRORS]]
    first = errors[0]
    detail = f"{first.field}: {first.detail}" if first.field else first.detail
    return Problem("invalid_request", detail, errors=errors)


def _field_error(item: Mapping[str, Any], inside: str) -> FieldError:
    place = [str(part) for part in item["loc"]]
    location = place.pop(0) if not inside and place and place[0] in ("body", "query", "path", "header") else "body"
    place = [inside, *place] if inside else place
    if item["type"] == UNKNOWN_PARAMETER:
        place = [*place, str(item["ctx"]["name"])]
    message = str(item["msg"]).removeprefix("Value error, ")
    return FieldError(
        location=location, field=printable(".".join(place), 200), code=str(item["type"]), detail=printable(message)
    )


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def methods_at(app: FastAPI, request: Request) -> list[str]:
    """The methods that the address of a request has: those of all its routes, not of the first one alone.

    An address that a route has word by word (`/jobs/sync`) is not also one of a route with an id in that place.
    """
    literal: dict[str, None] = {}
    every: dict[str, None] = {}
    for method in METHODS:
        for route in _routes(app.router.routes):
            if route.matches({**request.scope, "method": method})[0] is Match.FULL:
                every[method] = None
                if "{" not in getattr(route, "path", "{"):
                    literal[method] = None
    return list(literal or every)


def _routes(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes themselves: FastAPI keeps an included router whole, whose routes have its prefix already."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from _routes(inner.routes)


def from_http(request: Request, error: HTTPException, methods: Sequence[str] = ()) -> Problem:
    """What the framework itself refuses: an unknown path, a wrong method, a body that it cannot read.

    `methods`: those that the address has.
    """
    headers = dict(error.headers or {})
    where = f"{request.method} {request.url.path[:200]}"
    match error.status_code:
        case 404:
            return Problem("unknown_url", f"There is nothing at {where}.", headers=headers)
        case 405:
            allowed = ", ".join(methods)
            return Problem("method_not_allowed", f"{where}: allowed is {allowed}.", headers={"Allow": allowed})
        case 413:
            return Problem("request_too_large", str(error.detail), headers=headers)
        case _:
            return Problem("bad_request", "The body of the request can't be read.", headers=headers)


def in_form(path: str, error: ApiError | Problem) -> Response:
    """What is refused before any route, in the form of the path that was asked for."""
    ours = path.startswith(PREFIX)
    if isinstance(error, Problem):
        return error.response() if ours else _as_openai(error).response()
    if not ours:
        return error.response()
    code = {413: "request_too_large", 421: "misdirected"}.get(error.status, "internal_error")
    return Problem(code, str(error), headers=error.headers).response()


def _as_openai(problem: Problem) -> ApiError:
    told = problem.document
    code = "rate_limit_exceeded" if told.code == "rate_limited" else told.code
    kind = "requests" if told.status == 429 else SERVER if told.status >= 500 else INVALID
    return ApiError(told.status, told.detail, type=kind, code=code, headers=problem.headers)


def printable(text: str, most: int = 1000) -> str:
    """A text that can be sent, and not a long one: what clients send may hold half of a surrogate pair."""
    return text[:most].encode(errors="replace").decode()
