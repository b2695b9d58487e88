"""What the OpenAPI document says beyond the routes: who may come in, and the errors that every route has."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ...grid.capability import HEADER as ATTEMPT_TOKEN
from ...grid.signing import TOKEN as WORKER_TOKEN
from .auth import API_KEY, PUBLIC, REGISTER
from .problems import KINDS, MEDIA_TYPE, PREFIX
from .worker_auth import ENROLMENT_TOKEN

_SCHEMES: dict[str, dict[str, str]] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": API_KEY},
    "Bearer": {"type": "http", "scheme": "bearer"},
    "AttemptToken": {"type": "apiKey", "in": "header", "name": ATTEMPT_TOKEN},
    "WorkerToken": {"type": "apiKey", "in": "header", "name": WORKER_TOKEN},
    "EnrolmentToken": {"type": "apiKey", "in": "header", "name": ENROLMENT_TOKEN},
}
_REFERENCE = {"$ref": "#/components/schemas/ProblemDocument"}


def describe(app: FastAPI) -> None:
    """Complete the document of an application whose routes are all there."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
            for path, methods in schema["paths"].items():
                for operation in methods.values():
                    _complete(path, operation)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(path: str, operation: dict[str, Any]) -> None:
    if path in PUBLIC:
        return
    worker = path.startswith("/api/v1/workers/")
    operation["security"] = [{scheme: []} for scheme in _schemes(path, worker=worker)]
    if not path.startswith(PREFIX):
        return
    for code in () if worker else ("api_key_required", "invalid_api_key", "scope_missing", "rate_limited"):
        _tell(operation["responses"], code)
    for response in operation["responses"].values():
        if any(part.get("schema") == _REFERENCE for part in response.get("content", {}).values()):
            response["content"] = {MEDIA_TYPE: {"schema": _REFERENCE}}


def _schemes(path: str, *, worker: bool) -> tuple[str, ...]:
    """Any one of them opens the path."""
    if not worker:
        return ("ApiKey", "Bearer")
    if path == REGISTER:
        return ("EnrolmentToken",)
    if "/jobs/" in path:
        return ("AttemptToken",)
    return ("WorkerToken", "ApiKey", "Bearer") if path.endswith("/config") else ("WorkerToken",)


def _tell(responses: dict[str, Any], code: str) -> None:
    """Add a problem to what an operation may answer."""
    status = str(KINDS[code].status)
    told = responses.setdefault(status, {"description": "", "content": {MEDIA_TYPE: {"schema": _REFERENCE}}})
    if f"`{code}`" not in told["description"]:
        told["description"] = f"{told['description']}, `{code}`".removeprefix(", ")
