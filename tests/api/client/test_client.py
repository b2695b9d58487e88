"""What the clients ask and how they read the answers; on both clients, without a network."""

from __future__ import annotations

import base64
import inspect
import json
import subprocess
import sys

import httpx
import pytest

from idlegrid.api import AsyncGridClient, GridClient
from idlegrid.api.client import (
    Completion,
    Embeddings,
    GridError,
    Image,
    ImageAnswer,
    JobFailed,
    Refused,
    Segment,
    Transcription,
    Unavailable,
    Usage,
    WaitTimedOut,
    Word,
    results,
)
from idlegrid.grid.jobs import JobStatus

JOB = {"job_id": "j1", "type": "llm", "status": "queued", "created_at": "2026-03-01T12:00:00Z"}
QUEUED = JOB | {"queue_position": 3, "estimated_wait_seconds": 1.5}
DONE = JOB | {"status": "completed", "attempts": 1, "worker_id": "w1", "completed_at": "2026-03-01T12:00:09.5+00:00"}
USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
FINAL = b'id: 2\nevent: status\ndata: {"status": "completed"}\n\n'
FROM_MODELS = ("chat", "complete", "embed", "transcribe", "generate_image", "analyze_image")
CALLS = (*FROM_MODELS, "submit", "job", "wait", "cancel", "stream", "jobs", "why", "queue")


def problem(status, code, detail="that is wrong", **headers):
    document = {"type": f"urn:idlegrid:problem:{code}", "code": code, "title": "No", "status": status, "detail": detail}
    return httpx.Response(
        status, content=json.dumps(document), headers={"content-type": "application/problem+json", **headers}
    )


class Service:
    """Answers as scripted, one after the other, and keeps what was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, request):
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers else pytest.fail(f"one request too many: {request.url}")
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, json=answer) if isinstance(answer, dict) else answer

    def body(self, number=0):
        return json.loads(self.asked[number].content)


def ends_with(result, **fields):
    """A service whose job ends so."""
    return Service(DONE | {"result": result} | fields)


async def test_a_submitted_job(connect):
    service = Service(QUEUED)
    job = await connect(service, "ig_key").call(
        "submit", "llm", {"prompt": "x"}, priority=5, region="europe-west", allow_cross_region=False, timeout_seconds=9
    )
    assert (job.id, job.status, job.queue_position, job.estimated_wait_seconds) == ("j1", JobStatus.QUEUED, 3, 1.5)
    assert job.created_at.isoformat() == "2026-03-01T12:00:00+00:00"
    [request] = service.asked
    assert (request.method, request.url.path, request.headers["x-api-key"]) == ("POST", "/api/v1/jobs", "ig_key")
    options = {"priority": 5, "region": "europe-west", "allow_cross_region": False, "timeout_seconds": 9}
    assert service.body() == {"type": "llm", "params": {"prompt": "x"}} | options


async def test_what_is_not_said_is_left_to_the_service(connect):
    service = ends_with({"response": "4", "finish_reason": "stop", "usage": USAGE})
    answer = await connect(service).call("chat", "2 + 2?")
    assert answer == Completion("4", "stop", Usage(2, 3, 5))
    assert str(answer) == "4"
    assert service.body() == {"type": "llm", "params": {"messages": [{"role": "user", "content": "2 + 2?"}]}}
    assert "x-api-key" not in service.asked[0].headers


@pytest.mark.parametrize(
    ("call", "args", "options", "kind", "params", "result", "value"),
    [
        (
            "complete",
            ["once"],
            {"model": "m", "max_tokens": 4, "temperature": 0.0, "stop": ["."], "seed": 1},
            "llm",
            {"model": "m", "prompt": "once", "max_tokens": 4, "temperature": 0.0, "stop": ["."], "seed": 1},
            {"response": "upon", "finish_reason": "length", "usage": USAGE},
            Completion("upon", "length", Usage(2, 3, 5)),
        ),
        (
            "embed",
            ["one"],
            {"dimensions": 2, "normalize": False},
            "embedding",
            {"texts": ["one"], "dimensions": 2, "normalize": False},
            {"embeddings": [[1.0, 2.0]], "dimensions": 2, "usage": {"prompt_tokens": 1, "total_tokens": 1, "new": 0}},
            Embeddings([[1.0, 2.0]], 2, Usage(prompt_tokens=1, total_tokens=1)),
        ),
        (
            "transcribe",
            [b"RIFF"],
            {"language": "de", "words": True},
            "whisper",
            {"audio_base64": base64.b64encode(b"RIFF").decode(), "language": "de", "task": "transcribe", "words": True},
            {
                "text": "ja",
                "language": "de",
                "duration": 1.5,
                "segments": [{"start": 0, "end": 1, "text": "ja", "id": 0}],
                "words": [{"start": 0, "end": 0.5, "word": "ja"}],
            },
            Transcription("ja", "de", 1.5, (Segment(0, 1, "ja"),), (Word(0, 0.5, "ja"),)),
        ),
        (
            "generate_image",
            ["a lease"],
            {"width": 64, "height": 32},
            "image_gen",
            {"prompt": "a lease", "width": 64, "height": 32},
            {"image_base64": base64.b64encode(b"PNG").decode(), "width": 64, "height": 32, "seed": 7, "format": "png"},
            Image(b"PNG", 64, 32, 7, "png"),
        ),
        (
            "analyze_image",
            ["https://example.org/a.png", "what?"],
            {},
            "vision",
            {"image_url": "https://example.org/a.png", "question": "what?", "task": "image_qa"},
            {"response": "a cat", "task": "image_qa", "usage": USAGE},
            ImageAnswer("a cat", "image_qa", Usage(2, 3, 5)),
        ),
    ],
)
async def test_each_job_type(connect, call, args, options, kind, params, result, value):
    service = ends_with(result, type=kind)
    assert await connect(service).call(call, *args, **options) == value
    assert service.body() == {"type": kind, "params": params}


async def test_a_file_is_sent_and_an_image_saved(connect, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    service = ends_with({"text": "", "language": "de", "duration": 0.0, "segments": []}, type="whisper")
    await connect(service).call("transcribe", tmp_path / "a.wav")
    assert service.body()["params"]["audio_base64"] == base64.b64encode(b"RIFF").decode()
    assert Image(b"PNG", 1, 1, 0, "png").save(tmp_path / "a.png").read_bytes() == b"PNG"


async def test_a_lost_answer_makes_no_second_job(connect):
    service = Service(httpx.ReadError("gone"), problem(503, "store_unavailable"), QUEUED)
    job = await connect(service).call("submit", "llm", {})
    keys = [request.headers["idempotency-key"] for request in service.asked]
    assert (job.id, len(keys), len(set(keys))) == ("j1", 3, 1)
    other = Service(QUEUED)
    await connect(other).call("submit", "llm", {})
    assert other.asked[0].headers["idempotency-key"] not in keys, "a key is of one submission"


async def test_a_key_of_ones_own(connect):
    service = Service(QUEUED)
    await connect(service).call("submit", "llm", {}, idempotency_key="order-7")
    assert service.asked[0].headers["idempotency-key"] == "order-7"
    assert "idempotency_key" not in service.body()


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [
        (lambda: problem(422, "idempotency_conflict"), "idempotency_conflict", 422),
        (lambda: problem(401, "unauthorized"), "unauthorized", 401),
        (
            lambda: httpx.Response(400, json={"error": {"message": "that is wrong", "code": "invalid_value"}}),
            "invalid_value",
            400,
        ),
        (lambda: httpx.Response(404, text="<html>that is wrong"), "http_404", 404),
    ],
)
async def test_a_refusal_is_told_at_once(connect, answer, code, status):
    with pytest.raises(Refused) as refusal:
        await connect(Service(answer())).call("job", "j1")
    assert (refusal.value.code, refusal.value.status) == (code, status)
    assert code in str(refusal.value)


async def test_patience_ends_with_the_last_trouble(connect):
    def away(request):
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(Unavailable, match=r"http://grid.test could not be used for 0.3 s; last: ConnectError: refused"):
        await connect(away, retry_for=0.3).call("job", "j1")


async def test_a_service_that_asks_for_more_time_than_there_is_is_not_asked_again(connect):
    service = Service(problem(429, "queue_full", **{"retry-after": "30"}))
    with pytest.raises(Unavailable, match="queue_full"):
        await connect(service, retry_for=5).call("submit", "llm", {})
    assert len(service.asked) == 1


async def test_retry_after_is_kept(connect):
    service = Service(problem(429, "rate_limited", **{"retry-after": "0"}), QUEUED)
    assert (await connect(service).call("submit", "llm", {})).id == "j1"


async def test_a_job_that_ends_without_a_result(connect):
    service = Service(DONE | {"status": "failed", "error": "poisoned"})
    with pytest.raises(JobFailed, match="llm job j1 ended as failed: poisoned") as failure:
        await connect(service).call("chat", "x")
    assert failure.value.job.status is JobStatus.FAILED


async def test_a_long_job_is_waited_for(connect):
    result = {"response": "4", "finish_reason": "stop", "usage": USAGE}
    running = problem(504, "still_running")
    running = httpx.Response(504, json=running.json() | {"job_id": "j1"})
    service = Service(running, httpx.Response(200, content=FINAL), DONE | {"result": result})
    assert (await connect(service).call("chat", "2 + 2?", wait=60)).response == "4"
    assert [request.url.path.removeprefix("/api/v1/jobs/") for request in service.asked] == ["sync", "j1/events", "j1"]
    assert float(service.asked[0].url.params["timeout"]) == 20


async def test_waiting_goes_on_through_breaks_and_asks_the_job_itself(connect):
    running = JOB | {"status": "running"}
    broken, cut = httpx.ReadError("gone"), httpx.Response(200, content=FINAL[:20])
    service = Service(broken, running, cut, running, httpx.Response(200, content=b": ping\n\n"), DONE)
    job = await connect(service).call("wait", "j1")
    assert job.status is JobStatus.COMPLETED
    assert job.completed_at.timestamp() - job.created_at.timestamp() == 9.5


async def test_waiting_has_an_end(connect):
    def waits(request):
        return httpx.Response(200, **({"content": b": ping\n\n"} if "events" in request.url.path else {"json": JOB}))

    with pytest.raises(WaitTimedOut, match=r"job j1 has not ended within 0.2 s") as timeout:
        await connect(waits).call("wait", "j1", timeout=0.2)
    assert timeout.value.job_id == "j1"


async def test_a_stream_that_is_over_ends(connect):
    service = Service(httpx.Response(200, content=b""), DONE)
    assert await connect(service).take(None, "j1", after=9) == []
    assert service.asked[0].headers["last-event-id"] == "9"


async def test_the_other_calls(connect):
    stats = {
        "total_queued": 4,
        "available_workers": 1,
        "estimated_wait_seconds": None,
        "by_type": {"llm": {"queued": 4}},
    }
    why = {"job_id": "j1", "status": "queued", "summary": "it waits", "workers": [{"worker": "w", "verdict": "paused"}]}
    service = Service({"jobs": [JOB, DONE], "next_cursor": "c"}, JOB | {"status": "cancelled"}, why, stats)
    grid = connect(service)
    page = await grid.call("jobs", status="queued", limit=2)
    assert ([job.status for job in page.jobs], page.next_cursor) == (["queued", "completed"], "c")
    assert (await grid.call("cancel", "a/b")).status is JobStatus.CANCELLED
    told = await grid.call("why", page.jobs[0])
    assert (told.summary, told.workers[0].worker, told.workers[0].verdict) == ("it waits", "w", "paused")
    assert (await grid.call("queue", region="oceania")).by_type == {"llm": {"queued": 4}}
    asked = [(request.method, request.url.raw_path.decode()) for request in service.asked]
    assert asked == [
        ("GET", "/api/v1/jobs?status=queued&limit=2"),
        ("DELETE", "/api/v1/jobs/a%2Fb"),
        ("GET", "/api/v1/jobs/j1/why"),
        ("GET", "/api/v1/queue/stats?region=oceania"),
    ]


async def test_who_is_no_grid_is_told_so(connect):
    with pytest.raises(GridError, match="is it an idlegrid service"):
        await connect(Service(httpx.Response(200, html="<html>"))).call("job", "j1")
    with pytest.raises(GridError, match="can't be asked"):
        await connect("localhost:8000").call("job", "j1")


async def test_the_key_may_come_from_the_environment(connect, monkeypatch):
    monkeypatch.setenv("IDLEGRID_API_KEY", "ig_env")
    service = Service(JOB, JOB)
    await connect(service).call("job", "j1")
    await connect(service, "").call("job", "j1")
    assert [request.headers.get("x-api-key") for request in service.asked] == ["ig_env", None]


def test_both_clients_have_every_call_and_its_words():
    for name in CALLS:
        for kind in (GridClient, AsyncGridClient):
            assert inspect.getdoc(getattr(kind, name))
            assert "self" in inspect.signature(getattr(kind, name)).parameters
        with GridClient("http://grid.test") as grid:
            assert inspect.getdoc(getattr(grid, name)) == inspect.getdoc(getattr(GridClient, name))


def test_results_have_the_fields_of_the_job_types():
    from idlegrid.pipelines.embedding import EmbeddingResult
    from idlegrid.pipelines.llm_job import LlmResult

    assert set(results.Completion.__slots__) == set(LlmResult.model_fields)
    assert set(results.Embeddings.__slots__) == set(EmbeddingResult.model_fields)


def test_the_base_install_is_enough():
    heavy = ("torch", "fastapi", "starlette", "sqlalchemy", "dask", "distributed", "pyarrow", "pydantic", "numpy")
    code = f"import sys; from idlegrid.api import GridClient; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
