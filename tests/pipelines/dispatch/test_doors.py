"""A registered worker's requests are signed, and what the service says of the worker is not the end of its attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from idlegrid.grid.credentials import Credentials, Signer
from idlegrid.grid.signing import check, read_signature
from idlegrid.pipelines.dispatch.doors import Away, Doors, Gone
from idlegrid.pipelines.dispatch.work_order import Identity, WorkOrder

WHO = Identity("w-1", "i-1")
ORDER = WorkOrder(
    job_id="j",
    fence=1,
    type="llm",
    params={},
    timeout_seconds=9,
    lease_seconds=9,
    token="attempt",
    api=("http://grid.example:8000",),
    trace_id=None,
)
HELD = Credentials(
    worker_id="w-1",
    server="http://grid.example:8000",
    token="token",
    refresh_token="refresh",
    signing_secret="5" * 64,
    token_expires_at=datetime(2027, 1, 1, tzinfo=UTC),
)


class Service(httpx.BaseTransport):
    """Checks every request as the real one does, then answers what the test wants."""

    def __init__(self, status: int = 200, code: str = "") -> None:
        self.status, self.code = status, code
        self.tokens: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        signature = read_signature((name.lower(), value) for name, value in request.headers.raw)
        assert signature is not None
        path, _, query = request.url.raw_path.partition(b"?")
        check(
            HELD.key,
            signature,
            key_id="w-1",
            method=request.method,
            host=request.headers["host"],
            raw_path=path,
            raw_query=query,
            body_hash=sha256(request.read()).hexdigest(),
            now=int(signature.timestamp),
        )
        self.tokens.append(request.headers["x-worker-token"])
        if self.status == 200:
            return httpx.Response(200, json={"lease_seconds": 30, "cancel": False, "status": "completed"})
        return httpx.Response(self.status, json={"code": self.code, "detail": "no"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    HELD.save(tmp_path / "credentials.json")
    return tmp_path / "credentials.json"


def test_all_requests_are_signed_with_the_token_of_the_moment(file: Path):
    service = Service()
    doors = Doors(service, signer=Signer(file))
    assert doors.progress(ORDER, WHO, {"begin": True}, 5).seconds == 30
    replace(HELD, token="renewed").save(file)
    assert doors.complete(ORDER, WHO, b'{"success": true}', 5) == "completed"
    doors.next_job(ORDER.api, "w-1", "the grid's own token", ["llm"], 1, "oceania")
    assert service.tokens == ["token", "renewed", "renewed"]


@pytest.mark.parametrize("code", ["invalid_worker_token", "invalid_signature", "clock_skew", "replayed"])
def test_a_result_is_kept_while_the_worker_is_refused(file: Path, code: str):
    """Its agent renews the token, or its owner sets the clock: then the result is delivered."""
    doors = Doors(Service(401, code), signer=Signer(file))
    with pytest.raises(Away, match=code) as away:
        doors.complete(ORDER, WHO, b"{}", 5)
    assert away.value.retry_after
    with pytest.raises(Away):
        doors.next_job(ORDER.api, "w-1", "", ["llm"], 1, "oceania")


def test_an_attempt_that_is_over_is_over(file: Path):
    for status, code in ((401, "invalid_attempt_token"), (409, "stale"), (404, "job_not_found")):
        with pytest.raises(Gone, match=code):
            Doors(Service(status, code), signer=Signer(file)).complete(ORDER, WHO, b"{}", 5)


def test_without_credentials_nothing_is_lost_either(file: Path):
    doors = Doors(Service(), signer=Signer(file))
    file.chmod(0o644)
    with pytest.raises(Away, match="chmod 600"):
        doors.complete(ORDER, WHO, b"{}", 5)
    file.unlink()
    with pytest.raises(Away, match="credentials"):
        doors.complete(ORDER, WHO, b"{}", 5)
