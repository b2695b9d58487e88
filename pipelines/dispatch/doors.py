"""The worker's side of the HTTP service: two fenced doors, and the one where work is asked for. Plain JSON, no Dask."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from ...grid.capability import HEADER
from ...grid.credentials import BadCredentials, Signer
from .work_order import Identity, WorkOrder

CONNECT = 2.0
"""Seconds to reach the service."""
_GONE = frozenset({401, 403, 404, 409, 410})
"""What is refused for good: the fence is old, the capability has expired, or the job was deleted."""
_ATTEMPT_REFUSED = "invalid_attempt_token"
"""Any other 401 is about the worker, whose agent gets a new token or tells its owner to set the clock: not for good."""
_WORKER_REFUSED = 5.0
"""Seconds until a worker whose token or signature was refused tries again."""


class Away(Exception):
    """The service can't be reached, or can't answer now. The same call may be made again."""

    retry_after: float | None = None
    """Seconds that the service asks for."""


class Gone(Exception):
    """This attempt is over as far as the grid is concerned: nothing that it says changes anything any more."""


class Unfit(Exception):
    """The service takes the attempt's word, but not this one: too large, or not what the job type gives."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The service's answer to a sign of life."""

    seconds: float
    cancel: bool


class Doors:
    """Where workers speak. Thread-safe; one for a process."""

    def __init__(self, transport: httpx.BaseTransport | None = None, signer: Signer | None = None) -> None:
        """`signer`: for a worker that is registered; all its requests carry its token and are signed."""
        self._http = httpx.Client(transport=transport, trust_env=False, follow_redirects=False, auth=signer)
        self._signed = signer is not None
        self._lock = threading.Lock()
        self._preferred: dict[tuple[str, ...], int] = {}

    def progress(self, attempt: WorkOrder, who: Identity, body: Mapping[str, Any], timeout: float) -> Lease:
        """Say that the attempt lives. Raises Away, Gone or Unfit."""
        answer = self._post(attempt, who, "progress", json.dumps(body).encode(), timeout)
        return Lease(float(answer["lease_seconds"]), bool(answer["cancel"]))

    def complete(self, attempt: WorkOrder, who: Identity, body: bytes, timeout: float) -> str:
        """Say how the attempt ended (JSON). The job's status from then on. Raises Away, Gone or Unfit."""
        return str(self._post(attempt, who, "complete", body, timeout)["status"])

    def next_job(
        self, api: tuple[str, ...], worker_id: str, token: str, types: list[str], wait: float, region: str
    ) -> Any:
        """Ask for work and wait for it up to `wait` seconds. The document of one attempt, or None.

        Raises Away, and PermissionError when this worker is given nothing.
        """
        path = f"/api/v1/workers/{quote(worker_id, safe='')}/next-job"
        response = self._send(
            api,
            "GET",
            path,
            wait + 10,
            params={"wait": f"{wait:g}", "types": ",".join(types), "region": region},
            headers={"X-Worker-Token": token},
        )
        if response.status_code == 204:
            return None
        if response.status_code != 200:
            raise PermissionError(f"the service at {api[0]} gives this worker no work: {_detail(response)}")
        return response.json()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _post(self, attempt: WorkOrder, who: Identity, door: str, body: bytes, timeout: float) -> Any:
        path = f"/api/v1/workers/{quote(who.worker_id, safe='')}/jobs/{quote(attempt.job_id, safe='')}/{door}"
        headers = {HEADER: attempt.token, "Content-Type": "application/json"}
        if attempt.trace_id:
            headers["X-Trace-ID"] = attempt.trace_id
        response = self._send(attempt.api, "POST", path, timeout, content=body, headers=headers)
        if response.status_code in _GONE:
            raise Gone(_detail(response))
        if response.status_code != 200:
            raise Unfit(_detail(response))
        return response.json()

    def _send(self, api: tuple[str, ...], method: str, path: str, timeout: float, **request: Any) -> httpx.Response:
        """The answer of the first service that gives one. Raises Away."""
        limits = httpx.Timeout(timeout, connect=min(CONNECT, timeout))
        first, told = self._preferred.get(api, 0), Away("no address of the service is known")
        for number in range(len(api)):
            index = (first + number) % len(api)
            try:
                response = self._http.request(method, f"{api[index]}{path}", timeout=limits, **request)
            except httpx.TransportError as error:
                told = Away(f"{api[index]}: {type(error).__name__} {error}")
                continue
            except (OSError, BadCredentials) as error:
                raise Away(f"this worker's credentials can't be used: {error}") from error
            if self._signed and response.status_code == 401 and _code(response) != _ATTEMPT_REFUSED:
                told = Away(f"{api[index]}: {_detail(response)}")
                told.retry_after = _WORKER_REFUSED
                continue
            if response.status_code < 500 and response.status_code not in (408, 429):
                self._preferred[api] = index
                return response
            told = Away(f"{api[index]}: {_detail(response)}")
            told.retry_after = _seconds(response.headers.get("Retry-After"))
        raise told


def _detail(response: httpx.Response) -> str:
    try:
        said = response.json()
        return f"{response.status_code} {said.get('code', '')}: {said.get('detail') or said.get('title', '')}"
    except (ValueError, AttributeError):
        return str(response.status_code)


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["code"])
    except (ValueError, TypeError, KeyError):
        return ""


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
