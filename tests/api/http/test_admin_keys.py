"""API keys over HTTP."""

from __future__ import annotations

import pytest
from jobs_service import Service, with_settings

KEYS = "/api/v1/admin/keys"


async def test_a_key_is_made_used_listed_and_revoked(store):
    service = Service(store, with_settings(api={"auth": True}))
    async with service.client(service.key("admin")) as admin:
        made = await admin.post(KEYS, json={"name": "a team", "scopes": ["jobs"], "requests_per_minute": 60})
        assert made.status_code == 201
        key = made.json()
        mine = {"X-API-Key": key["secret"]}
        assert (await admin.get("/api/v1/jobs", headers=mine)).status_code == 200
        assert (await admin.get(KEYS, headers=mine)).status_code == 403, "a key makes no keys"
        rows = (await admin.get(KEYS)).json()["keys"]
        row = next(row for row in rows if row["id"] == key["id"])
        assert (row["name"], row["scopes"], row["requests_per_minute"], row["revoked_at"]) == (
            "a team",
            ["jobs"],
            60,
            None,
        )
        assert key["secret"] not in (await admin.get(KEYS)).text, "it is shown once"
        assert "secret" not in row
        assert (await admin.delete(f"{KEYS}/{key['id']}")).status_code == 204
        assert (await admin.get("/api/v1/jobs", headers=mine)).status_code == 401, "at once, in this process"
        again = await admin.delete(f"{KEYS}/{key['id']}")
        assert (again.status_code, again.json()["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes.0"),
        ({"name": "x", "client_id": "a b"}, "client_id"),
        ({"name": "x", "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"name": "x", "secret": "mine"}, "secret"),
    ],
)
async def test_what_is_no_key(jobs, body, field):
    answer = await jobs.post(KEYS, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field


async def test_keys_of_one_client_share_its_jobs(store):
    service = Service(store, with_settings(api={"auth": True}))
    one, other = service.key(client_id="team"), service.key(client_id="team")
    async with service.client(one) as first, service.client(other) as second:
        body = {"type": "embedding", "params": {"texts": ["x"]}}
        id_ = (await first.post("/api/v1/jobs", json=body)).json()["job_id"]
        assert (await second.get(f"/api/v1/jobs/{id_}")).status_code == 200
