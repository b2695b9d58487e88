"""Problem details: one shape, one page that explains them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idlegrid.api.http.problems import KINDS, Problem, from_validation, problems, retry_after

PAGE = Path(__file__).resolve().parents[3] / "docs/problems.md"


def test_every_code_is_explained_with_its_status():
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \| (.+) \|$", PAGE.read_text(), flags=re.MULTILINE)
    assert {code: int(status) for code, status, _ in rows} == {code: kind.status for code, kind in KINDS.items()}
    assert all(len(words) > 20 for _, _, words in rows)


def test_every_code_is_used():
    sources = "".join(path.read_text() for path in (PAGE.parents[1] / "api/http").glob("*.py"))
    assert [code for code in KINDS if sources.count(f'"{code}"') < 2] == []


def test_the_document():
    answer = Problem("queue_full", "5 jobs wait.", headers=retry_after(0.2)).response()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body == (
        b'{"type":"urn:idlegrid:problem:queue_full","code":"queue_full","title":"Too many jobs wait",'
        b'"status":429,"detail":"5 jobs wait."}'
    )


def test_a_code_that_nobody_knows_is_a_defect():
    with pytest.raises(KeyError):
        Problem("oops", "…")
    with pytest.raises(KeyError):
        problems("oops")


def test_what_a_client_wrote_can_always_be_sent_back():
    item = {"type": "missing", "loc": ("body", "\ud800" * 300), "msg": "Field required"}
    (error,) = from_validation([item]).document.errors or ()
    assert (error.field, error.location) == ("?" * 200, "body")
    assert from_validation([item] * 100).response().status_code == 422
    assert len(from_validation([item] * 100).document.errors or ()) == 20


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/nothing", 404, "unknown_url"),
        ("PUT", "/api/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/api/v1/jobs/x", 404, "job_not_found"),
    ],
)
async def test_the_frameworks_refusals_have_the_same_form(jobs, method, path, status, code):
    answer = await jobs.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]


async def test_elsewhere_errors_have_openais_form(jobs):
    assert (await jobs.get("/v1/nothing")).json()["error"]["code"] == "unknown_url"
    answer = await jobs.get("/api/v1/jobs", headers={"host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected")


async def test_a_wrong_method_is_told_all_right_ones(jobs):
    pairs = (("/api/v1/jobs", "GET, POST"), ("/api/v1/jobs/x", "GET, DELETE"), ("/api/v1/state", "GET"))
    for path, allowed in (*pairs, ("/api/v1/jobs/sync", "POST")):
        answer = await jobs.patch(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert allowed in answer.json()["detail"]
