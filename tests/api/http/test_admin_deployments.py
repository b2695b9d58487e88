"""Deployments over HTTP: what administrators want, with versions, and how it stands."""

from __future__ import annotations

import pytest
from jobs_service import Service, with_settings

from idlegrid.grid.deployments import DeploymentReport, DeploymentState, HeldLayers
from idlegrid.grid.store import SERVING

DEPLOYMENTS = "/api/v1/admin/deployments"


async def test_a_model_is_deployed_read_changed_and_withdrawn(jobs):
    made = await jobs.post(DEPLOYMENTS, json={"model": "qwen2.5-7b", "stages": 3, "region": "oceania"})
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["model"], told["version"], told["state"]) == ("Qwen/Qwen2.5-7B-Instruct", 1, "waiting")
    assert (told["stages"], told["replicas"], told["region"]) == (3, 1, "oceania")
    at = f"{DEPLOYMENTS}/Qwen/Qwen2.5-7B-Instruct"
    assert (await jobs.get(f"{DEPLOYMENTS}/QWEN2.5-7B")).json() == told, "an alias finds it"
    read = await jobs.get(at)
    assert (read.json(), read.headers["etag"]) == (told, '"1"')
    changed = await jobs.patch(at, json={"replicas": 2}, headers={"If-Match": '"1"'})
    assert (changed.json()["version"], changed.json()["replicas"], changed.json()["stages"]) == (2, 2, 3)
    ranges = await jobs.patch(at, json={"layers": [[0, 10], [10, 28]]})
    assert (ranges.json()["layers"], ranges.json()["stages"]) == ([[0, 10], [10, 28]], None)
    late = await jobs.patch(at, json={"replicas": 5}, headers={"If-Match": '"2"'})
    assert (late.status_code, late.json()["code"], late.headers["etag"]) == (412, "version_conflict", '"3"')
    assert (await jobs.delete(at, headers={"If-Match": '"2"'})).status_code == 412
    ended = await jobs.delete(at)
    assert (ended.status_code, ended.json()["state"], ended.json()["wanted"]) == (200, "ending", False)
    again = await jobs.delete(at)
    assert (again.status_code, again.json()["code"]) == (404, "deployment_not_found")
    assert (await jobs.patch(at, json={"replicas": 1})).status_code == 404


async def test_a_model_is_deployed_once(jobs):
    await jobs.post(DEPLOYMENTS, json={"model": "idlegrid-tiny"})
    answer = await jobs.post(DEPLOYMENTS, json={"model": "idlegrid-tiny"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_deployed")
    assert "PATCH" in answer.json()["detail"]


async def test_what_is_reported_and_by_whom(jobs, store):
    assert (await jobs.get(DEPLOYMENTS)).json() == {"deployments": [], "serving": None}
    await jobs.post(DEPLOYMENTS, json={"model": "idlegrid-tiny"})
    lease = store.leases.hold(SERVING, "one", 30, "http://one:8000")
    held = (HeldLayers("d-1", 0, 2, "ready", 7, 1.5, "probed"), HeldLayers("d-2", 2, 4, "loading", 7))
    report = DeploymentReport(state=DeploymentState.PLACING, version=1, why="a word", num_layers=6, coverage=held)
    assert store.deployments.report("idlegrid-tiny", report, lease.fence)
    listed = (await jobs.get(DEPLOYMENTS)).json()
    assert listed["serving"] == {"holder": "one", "place": "http://one:8000", "alive": True}
    [told] = listed["deployments"]
    assert (told["state"], told["why"], told["num_layers"], told["missing"]) == ("placing", "a word", 6, [[2, 6]])
    assert [part["worker_id"] for part in told["coverage"]] == ["d-1", "d-2"]
    assert [(part["layer_ms"], part["speed"]) for part in told["coverage"]] == [(1.5, "probed"), (None, "")]
    store.leases.release(SERVING, "one")
    assert not (await jobs.get(DEPLOYMENTS)).json()["serving"]["alive"]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"model": "idlegrid-tinny"}, "unknown_model", "idlegrid-tiny"),
        ({"model": "minilm"}, "unknown_model", "embedding"),
        ({"model": "a\nb"}, "invalid_request", "model"),
        ({}, "invalid_request", "model"),
        ({"model": "a/b", "replicas": -1}, "invalid_request", "replicas"),
        ({"model": "a/b", "replica": 1}, "invalid_request", "Did you mean 'replicas'?"),
        ({"model": "a/b", "engine": "os:system"}, "invalid_request", "engine"),
        ({"model": "a/b", "region": "mars"}, "invalid_request", "region"),
        ({"model": "a/b", "layers": [[0, 4], [5, 9]]}, "invalid_request", "must begin at 4"),
        ({"model": "a/b", "layers": [[0, 4]], "stages": 2}, "invalid_request", "1 ranges"),
        ({"model": "a/b", "engine": "vllm", "stages": 2}, "invalid_request", "torch"),
        ({"model": "a/b", "options": {"a": "x" * 20_000}}, "invalid_request", "options"),
    ],
)
async def test_what_can_not_be_wanted(jobs, body, code, words):
    answer = await jobs.post(DEPLOYMENTS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert words in answer.text.replace("\\", "")
    assert (await jobs.get(DEPLOYMENTS)).json()["deployments"] == []


async def test_a_change_is_checked_with_what_stays(jobs):
    await jobs.post(DEPLOYMENTS, json={"model": "idlegrid-tiny", "stages": 2})
    answer = await jobs.patch(f"{DEPLOYMENTS}/idlegrid-tiny", json={"engine": "vllm"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await jobs.get(f"{DEPLOYMENTS}/idlegrid-tiny")).json()["version"] == 1


async def test_only_administrators(store):
    service = Service(store, with_settings(api={"auth": True}))
    async with service.client(service.key("jobs")) as client:
        assert (await client.post(DEPLOYMENTS, json={"model": "idlegrid-tiny"})).status_code == 403
        assert (await client.get(DEPLOYMENTS)).status_code == 403
    async with service.client(service.key("admin", client_id="ada")) as admin:
        assert (await admin.post(DEPLOYMENTS, json={"model": "idlegrid-tiny"})).json()["changed_by"] == "ada"
    assert [(entry.kind, entry.actor, entry.address) for entry in store.audit.list()] == [
        ("deployed", "ada", "127.0.0.1")
    ]
