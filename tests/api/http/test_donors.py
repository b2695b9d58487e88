"""A donor's life over HTTP: invited, registered, heard, configured, renewed, drained, blocked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from donors_service import BEAT, FACTS, HERE, Donor, join
from jobs_service import EMBED, Service, Worker, claim, with_settings

from idlegrid.grid.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
async def donor(service: Service, jobs: httpx.AsyncClient, tmp_path: Path) -> Donor:
    return await join(jobs, service.store, tmp_path)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


class TestRegistration:
    async def test_an_administrator_invites_and_the_machine_joins(self, service: Service, jobs):
        invited = await jobs.post("/api/v1/admin/enrolments", json={"owner": "ada", "valid_seconds": 60})
        assert invited.status_code == 201
        told = invited.json()
        assert told["join"] == f"gpu-worker join http://127.0.0.1:8000 {told['token']}"
        headers = {"X-Enrolment-Token": told["token"]}
        body = FACTS | {"config": {"max_jobs_per_hour": 3}, "models": ["m"], "direct_url": "http://127.0.0.1:8080/"}
        answer = await jobs.post("/api/v1/workers/register", json=body, headers=headers)
        assert answer.status_code == 201
        made = answer.json()
        assert made.keys() == {
            *("worker_id", "token", "refresh_token", "signing_secret", "token_expires_at", "scheduler_address", "tls"),
            *("config", "config_version", "heartbeat_interval"),
        }
        assert (made["config"], made["config_version"], made["tls"]) == ({"max_jobs_per_hour": 3}, 1, None)
        assert made["heartbeat_interval"] == service.settings.heartbeat_interval
        again = await jobs.post("/api/v1/workers/register", json=body, headers=headers)
        assert code(again) == (401, "invalid_enrolment_token")
        [listed] = (await jobs.get("/api/v1/admin/enrolments")).json()["enrolments"]
        assert (listed["worker_id"], "token" in listed) == (made["worker_id"], False)
        [row] = (await jobs.get("/api/v1/admin/workers")).json()["workers"]
        assert (row["owner"], row["registered"], row["direct_url"]) == ("ada", True, "http://127.0.0.1:8080")

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"region": "atlantis"}, "region"),
            ({"name": ""}, "name"),
            ({"name": "a\x00b"}, "name"),
            ({"supported_types": ["nonsense"]}, "supported_types"),
            ({"supported_types": []}, "supported_types"),
            ({"gpu_memory_gb": -1}, "gpu_memory_gb"),
            ({"role": "king"}, "role"),
            ({"direct_url": "http://user:pw@10.0.0.1/"}, "direct_url"),
            ({"config": {"max_jobs_per_hour": -1}}, "config.max_jobs_per_hour"),
            ({"config": {"working_hours_start": 3}}, "config"),
            ({"config": {"acceptance": 1}}, "config.acceptance"),
            ({"reliability": 1.0}, "reliability"),
        ],
    )
    async def test_what_makes_no_sense_spends_no_token(self, service: Service, jobs, change: dict, field: str):
        _, token = service.store.enrolments.create(60, None, HERE)
        headers = {"X-Enrolment-Token": token}
        answer = await jobs.post("/api/v1/workers/register", json=FACTS | change, headers=headers)
        assert code(answer) == (422, "invalid_request"), answer.text
        assert answer.json()["errors"][0]["field"].startswith(field)
        assert (await jobs.post("/api/v1/workers/register", json=FACTS, headers=headers)).status_code == 201

    async def test_an_enrolment_is_taken_back(self, jobs):
        made = (await jobs.post("/api/v1/admin/enrolments", json={})).json()
        assert (await jobs.delete(f"/api/v1/admin/enrolments/{made['prefix']}")).status_code == 204
        assert code(await jobs.delete(f"/api/v1/admin/enrolments/{made['id']}")) == (404, "enrolment_not_found")
        answer = await jobs.post("/api/v1/workers/register", json=FACTS, headers={"X-Enrolment-Token": made["token"]})
        assert code(answer) == (401, "invalid_enrolment_token")
        assert "took it back" in answer.json()["detail"]


class TestHeartbeats:
    async def test_what_is_said_and_heard(self, service: Service, jobs, donor: Donor):
        said = {"gpu_memory_used_gb": 3.5, "running": 1, "waiting": 2, "kv_cache": 0.5, "gpu_info": {"t": 60}}
        answer = await donor.beat(**said, status="busy")
        assert answer.status_code == 200
        assert answer.json() == {
            "config_changed": False,
            "config_version": 1,
            "commands": [],
            "reliability": None,
            "heartbeat_interval": 30.0,
            "token_expires_at": answer.json()["token_expires_at"],
            "scheduler_address": None,
        }
        kept = service.store.donors.get(donor.id)
        assert kept is not None
        assert kept.report == said | {"config_version": 1}
        assert kept.worker.facts.status == "busy"
        paused = await donor.beat(status="paused", paused_reason="the owner plays")
        assert paused.status_code == 200
        [row] = (await jobs.get("/api/v1/admin/workers")).json()["workers"]
        assert (row["status"], row["paused_reason"]) == ("paused", "the owner plays")

    @pytest.mark.parametrize(
        "change",
        [
            {"status": "king"},
            {"incarnation": "a b"},
            {"running": -1},
            {"token": "x"},
            {"gpu_info": {"x": "y" * 20_000}},
            {"gpu_memory_used_gb": 1e9},
        ],
    )
    async def test_what_makes_no_sense(self, donor: Donor, change: dict):
        assert code(await donor.beat(**change)) == (422, "invalid_request")

    async def test_numbers_that_json_does_not_have(self, donor: Donor):
        body = b'{"status": "online", "incarnation": "i", "gpu_info": {"temperature": NaN}}'
        headers = donor.signed("POST", f"{donor.path}/heartbeat", body) | {"Content-Type": "application/json"}
        answer = await donor.client.post(f"{donor.path}/heartbeat", content=body, headers=headers)
        assert code(answer)[0] in (400, 422)

    async def test_commands_until_they_are_obeyed(self, jobs, donor: Donor):
        await donor.beat()
        told = await jobs.post(f"/api/v1/admin/workers/{donor.id}/drain")
        assert told.json()["commands"] == ["drain"]
        said = [(await donor.beat(status=status)).json()["commands"] for status in ("busy", "busy", "draining")]
        assert said == [["drain"], ["drain"], []]
        await jobs.post(f"/api/v1/admin/workers/{donor.id}/resume")
        said = [(await donor.beat(status=status)).json()["commands"] for status in ("draining", "online", "online")]
        assert said == [["resume"], [], []]
        assert code(await jobs.post("/api/v1/admin/workers/w-none/drain")) == (404, "worker_not_found")

    async def test_goodbyes(self, service: Service, donor: Donor):
        await donor.beat()
        assert (await donor.say("drain", {})).json() == {"status": "draining"}
        assert (await donor.say("offline")).json() == {"status": "offline"}
        with service.store._database.read() as session:
            [stay] = session.all("SELECT * FROM sessions", {})
        assert stay["ended_at"] is not None
        assert stay["graceful"]


class TestWhoIsKnown:
    """A worker that this process has met before is not looked up; what changed since is noticed all the same."""

    @pytest.fixture
    async def known(self, donor: Donor) -> Donor:
        assert (await donor.beat()).status_code == 200
        return donor

    @pytest.fixture
    def lookups(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Ids of the workers that were looked up."""
        seen: list[str] = []
        find = service.store.credentials.find

        def counted(worker_id: str, token: str):
            seen.append(worker_id)
            return find(worker_id, token)

        monkeypatch.setattr(service.store.credentials, "find", counted)
        return seen

    async def test_it_is_not_looked_up_again(self, jobs, known: Donor, lookups: list[str]):
        for door, method in (("heartbeat", "POST"), ("next-job?wait=0", "GET"), ("drain", "POST")):
            answer = await known.say(door, BEAT if door == "heartbeat" else {}, method)
            assert answer.status_code in (200, 204), answer.text
        assert lookups == []

    @pytest.mark.parametrize("door", ["heartbeat", "drain"])
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("UPDATE workers SET blocked_at = 1", (403, "worker_blocked")),
            ("UPDATE credentials SET revoked_at = 1", (401, "invalid_worker_token")),
            ("UPDATE credentials SET expires_at = 1 WHERE kind = 'access'", (401, "invalid_worker_token")),
        ],
    )
    async def test_what_changed_since_is_noticed(self, service, known: Donor, door: str, change: str, told: tuple):
        with service.store._database.write() as session:
            session.run(change, {})
        assert code(await known.say(door, BEAT if door == "heartbeat" else {})) == told

    async def test_other_tokens_and_signatures_are_looked_up(self, known: Donor, lookups: list[str]):
        wrong = await known.say("heartbeat", BEAT, **{"X-Worker-Token": known.held.token[:-1] + "x"})
        assert code(wrong) == (401, "invalid_worker_token")
        assert code(await known.say("heartbeat", BEAT, **{"X-Signature": "0" * 64})) == (401, "invalid_signature")
        assert len(lookups) == 2
        told = (await known.refresh()).json()
        known.keep(token=told["token"], refresh_token=told["refresh_token"])
        assert (await known.beat()).status_code == 200


class TestAnnouncing:
    NOW = FACTS | {"name": "cellar", "region": "oceania", "supported_types": ["llm"], "gpu_model": "A100"}

    async def test_what_it_is_now_is_what_work_goes_by(self, service: Service, jobs, donor: Donor):
        await donor.beat()
        answers = [await donor.say("announce", self.NOW | {"models": ["m"]}) for _ in range(2)]
        assert [answer.json() for answer in answers] == [{"changed": True}, {"changed": False}]
        [row] = (await jobs.get("/api/v1/admin/workers")).json()["workers"]
        told = ("cellar", "oceania", "A100", ["llm"], ["m"], None)
        names = ("name", "region", "gpu_model", "supported_types", "models", "direct_url")
        assert tuple(row[name] for name in names) == told
        assert (row["status"], row["config_version"]) == ("online", 1)
        await jobs.post("/api/v1/jobs", json=EMBED)
        assert (await donor.say("next-job?wait=0", method="GET")).status_code == 204
        assert (await donor.say("announce", FACTS)).json() == {"changed": True}
        assert (await donor.say("next-job?wait=0", method="GET")).status_code == 200

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"region": "atlantis"}, "region"),
            ({"supported_types": []}, "supported_types"),
            ({"gpu_memory_gb": -1}, "gpu_memory_gb"),
            ({"direct_url": "http://user:pw@10.0.0.1/"}, "direct_url"),
            ({"config": {"max_jobs_per_hour": 3}}, "config"),
            ({"reliability": 1.0}, "reliability"),
        ],
    )
    async def test_it_is_checked_as_a_registration_is(self, service, donor: Donor, change: dict, field: str):
        answer = await donor.say("announce", self.NOW | change)
        assert code(answer) == (422, "invalid_request")
        assert answer.json()["errors"][0]["field"].startswith(field)
        record = service.store.donors.get(donor.id)
        assert record is not None
        assert record.worker.facts.name == "attic"


class TestConfiguration:
    async def test_both_sides_change_it_with_versions(self, service: Service, jobs, donor: Donor):
        url = f"{donor.path}/config"
        first = await jobs.get(url, headers={"X-Worker-Token": donor.held.token})
        assert (first.json(), first.headers["etag"]) == ({"version": 1, "config": {}}, '"1"')
        own = await donor.say(
            "config", {"config": {"acceptance_rate": 0.5}, "version": 1}, "PUT", **{"If-Match": '"1"'}
        )
        assert (own.json(), own.headers["etag"]) == ({"version": 2, "config": {"acceptance_rate": 0.5}}, '"2"')
        late = await jobs.put(url, json={"config": {}}, headers={"If-Match": '"1"'})
        assert (code(late), late.headers["etag"]) == ((412, "version_conflict"), '"2"')
        assert code(await jobs.put(url, json={"config": {}, "version": 1})) == (412, "version_conflict")
        operators = await jobs.put(url, json={"config": {"max_jobs_per_hour": 9}}, headers={"If-Match": '"2"'})
        assert operators.json()["version"] == 3
        heard = (await donor.beat(config_version=2)).json()
        assert (heard["config_changed"], heard["config_version"]) == (True, 3)
        assert not (await donor.beat(config_version=3)).json()["config_changed"]
        actors = [entry.actor for entry in service.store.audit.list(donor.id) if entry.kind == "config_changed"]
        assert actors == ["local", donor.id]

    async def test_what_is_refused(self, jobs, donor: Donor):
        url = f"{donor.path}/config"
        for config in ({"acceptance_rate": 2}, {"unknown": 1}, {"working_hours_end": 3}):
            assert code(await jobs.put(url, json={"config": config})) == (422, "invalid_request")
        for tag in ("2", '"x"', "", '"99999999999"'):
            answer = await jobs.put(url, json={"config": {}}, headers={"If-Match": tag})
            assert code(answer) == (412, "version_conflict"), tag
        assert (await jobs.put(url, json={"config": {}}, headers={"If-Match": "*"})).status_code == 200
        assert code(await jobs.get("/api/v1/workers/w-none/config")) == (404, "worker_not_found")


class TestRefresh:
    async def test_a_lost_answer_is_asked_for_again_and_a_stolen_token_ends_it_all(self, service, donor: Donor):
        """A7, over HTTP."""
        old = donor.held.refresh_token
        first = (await donor.refresh()).json()
        again = await donor.refresh(old)
        assert (again.status_code, again.json()) == (200, first)
        donor.keep(token=first["token"], refresh_token=first["refresh_token"])
        assert (await donor.beat()).status_code == 200
        stolen = await donor.refresh(old)
        assert code(stolen) == (401, "invalid_refresh_token")
        assert "stolen" in stolen.json()["detail"]
        for answer in (await donor.beat(), await donor.refresh(first["refresh_token"])):
            assert code(answer) == (401, "invalid_worker_token")
        kinds = [entry.kind for entry in service.store.audit.list(donor.id)]
        assert kinds == ["refresh_token_reused", "registered"]

    async def test_an_expired_access_token_can_be_renewed(self, service: Service, donor: Donor):
        with service.store._database.write() as session:
            session.run("UPDATE credentials SET expires_at = 1 WHERE kind = 'access'", {})
        late = await donor.beat()
        assert code(late) == (401, "invalid_worker_token")
        assert "expired" in late.json()["detail"]
        told = (await donor.refresh()).json()
        donor.keep(token=told["token"], refresh_token=told["refresh_token"])
        assert (await donor.beat()).status_code == 200

    async def test_another_workers_refresh_token(self, jobs, service, donor: Donor, tmp_path: Path):
        other = await join(jobs, service.store, tmp_path)
        assert code(await donor.refresh(other.held.refresh_token)) == (401, "invalid_refresh_token")
        assert (await other.refresh()).status_code == 200


class TestBlocking:
    async def test_a_blocked_worker_gets_nothing_until_it_is_let_in_again(self, service, jobs, donor: Donor):
        blocked = await jobs.post(f"/api/v1/admin/workers/{donor.id}/block")
        assert blocked.json()["blocked_at"] is not None
        for answer in (await donor.beat(), await donor.refresh(), await donor.say("next-job", method="GET")):
            assert code(answer) == (403, "worker_blocked")
        assert (await jobs.post(f"/api/v1/admin/workers/{donor.id}/unblock")).json()["blocked_at"] is None
        assert (await donor.beat()).status_code == 200

    async def test_what_it_runs_goes_to_others_at_once(self, service: Service, jobs, tmp_path: Path):
        donor = await join(jobs, service.store, tmp_path, config={"max_concurrent_jobs": 2})
        await donor.beat()
        begun, asked = [(await jobs.post("/api/v1/jobs", json=EMBED)).json()["job_id"] for _ in range(2)]
        service.store.jobs.begin(begun, claim(service.store, begun).fence, donor.id, "i-1", 30.0)
        assert (await donor.say("next-job", method="GET")).json()["job_id"] == asked
        await jobs.post(f"/api/v1/admin/workers/{donor.id}/block")
        for job_id in (begun, asked):
            told = (await jobs.get(f"/api/v1/jobs/{job_id}")).json()
            assert (told["status"], told["worker_id"]) == ("queued", None)
        [attempt_row] = service.store.jobs.attempts(begun)
        assert (attempt_row.outcome, attempt_row.detail) == (
            "handed_back",
            "an administrator has blocked this worker",
        )
        donor_row = service.store.donors.get(donor.id)
        assert donor_row is not None
        assert donor_row.worker.facts.status == "offline"
        assert claim(service.store, begun).fence == 2


class TestOrders:
    @pytest.mark.parametrize("order", ["restart", "shutdown"])
    async def test_until_another_process_speaks(self, jobs, donor: Donor, order: str):
        await donor.beat()
        assert (await jobs.post(f"/api/v1/admin/workers/{donor.id}/{order}")).json()["commands"] == [order]
        assert (await donor.beat()).json()["commands"] == [order]
        assert (await donor.beat(incarnation="i-2")).json()["commands"] == []


class TestWork:
    async def test_a_registered_worker_asks_with_its_own_token(self, jobs, donor: Donor):
        await donor.beat()
        job_id = (await jobs.post("/api/v1/jobs", json=EMBED)).json()["job_id"]
        told = (await donor.say("next-job", method="GET")).json()
        assert told["job_id"] == job_id

    async def test_the_grids_own_token_never_opens_a_registered_worker(self, jobs, donor: Donor):
        from jobs_service import WORKER_TOKEN

        headers = {"X-Worker-Token": WORKER_TOKEN}
        answer = await jobs.get(f"{donor.path}/next-job?wait=0", headers=headers)
        assert code(answer) == (401, "invalid_worker_token")
        other = await jobs.get("/api/v1/workers/never-registered/next-job?wait=0&types=llm", headers=headers)
        assert other.status_code == 204

    @pytest.mark.parametrize("status", ["paused", "draining"])
    async def test_who_takes_nothing_is_given_nothing(self, jobs, donor: Donor, status: str):
        await donor.beat(status=status)
        await jobs.post("/api/v1/jobs", json=EMBED)
        assert (await donor.say("next-job?wait=0", method="GET")).status_code == 204
        await donor.beat(status="online")
        assert (await donor.say("next-job?wait=0", method="GET")).status_code == 200

    async def test_it_speaks_for_its_attempts_with_token_and_signature(self, service: Service, jobs, donor: Donor):
        await jobs.post("/api/v1/jobs", json=EMBED)
        attempt = Worker(jobs, claim(service.store), id=donor.id)
        assert code(await attempt.begin()) == (401, "invalid_worker_token")
        door = f"jobs/{attempt.claim.job.id}/progress"
        words = {"fence": attempt.claim.fence, "incarnation": "i", "begin": True}
        signed = await donor.say(door, words, **{"X-Attempt-Token": attempt.token})
        assert signed.status_code == 200
        unsigned = {"X-Attempt-Token": attempt.token, "X-Worker-Token": donor.held.token}
        answer = await jobs.post(f"{donor.path}/{door}", json=words, headers=unsigned)
        assert code(answer) == (401, "invalid_signature")
        assert code(await donor.say(door, words)) == (401, "invalid_attempt_token")


@pytest.mark.parametrize("id_", ["%00", "%FF", "a%20b", "x" * 5000, "%E2%82%AC", "..%2e"])
async def test_ids_that_can_be_nobodys(service: Service, id_: str):
    """They never get as far as the database, and are not remembered one by one."""
    async with service.client() as client:
        for door in ("heartbeat", "config", "refresh-token"):
            answer = await client.post(f"/api/v1/workers/{id_}/{door}", headers={"X-Worker-Token": "x"})
            assert answer.status_code in (401, 404), answer.text


async def test_nothing_is_accepted_while_the_store_is_away(service: Service, jobs, donor: Donor, monkeypatch):
    """The nonces lie there: without them a request might be a replay (fails closed)."""
    from idlegrid.grid.store import StoreUnavailable

    def away(*_: object) -> bool:
        raise StoreUnavailable("away")

    monkeypatch.setattr(service.store.nonces, "use", away)
    answer = await donor.beat()
    assert code(answer) == (503, "store_unavailable")
    kept = service.store.donors.get(donor.id)
    assert kept is not None
    assert kept.incarnation is None


async def test_many_beats_at_once(service: Service, jobs, donor: Donor):
    answers = await asyncio.gather(*(donor.beat() for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_grid_of_public_addresses_takes_no_private_ones(store: Store):
    service = Service(store, with_settings(api={"private_direct_urls": False}))
    _, token = store.enrolments.create(60, None, HERE)
    async with service.client() as client:
        body = FACTS | {"direct_url": "https://192.168.0.7:8080"}
        answer = await client.post("/api/v1/workers/register", json=body, headers={"X-Enrolment-Token": token})
    assert code(answer) == (422, "invalid_request")
    assert "private network" in answer.json()["detail"]


async def test_beat_is_what_the_document_says(donor: Donor):
    assert (await donor.say("heartbeat", BEAT)).headers["cache-control"] == "no-store"
