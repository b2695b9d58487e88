"""Donors in the store, on both databases: they are let in once, heard, told, configured, blocked."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from idlegrid.grid.commands import Order
from idlegrid.grid.store import (
    BadEnrolment,
    Beat,
    By,
    NewWorker,
    NotProved,
    Proof,
    Registration,
    Store,
    TooManyWorkers,
    VersionConflict,
    credentials,
)

ME = By("tests", "127.0.0.1")
NEW = NewWorker(
    name="attic",
    region="europe-west",
    gpu_model="T4",
    gpu_memory_gb=16,
    gpu_count=2,
    supported_types=frozenset({"llm"}),
    models=frozenset({"m"}),
    config={"max_jobs_per_hour": 4},
)


def registered(store: Store, owner: str | None = None) -> Registration:
    _, token = store.enrolments.create(3600, owner, ME)
    return store.credentials.register(token, NEW)


def beat(store: Store, worker_id: str, status: str = "online", incarnation: str = "i", **more: object):
    return store.donors.heartbeat(Beat(worker_id=worker_id, status=status, incarnation=incarnation, **more))


def proof_of(store: Store, made: Registration, nonce: str = "n-1") -> Proof:
    """Of a worker that showed its token before."""
    standing = store.credentials.find(made.worker_id, made.tokens.token)
    assert standing is not None
    assert standing.token is not None
    assert standing.key_id is not None
    return Proof(token=standing.token, key=standing.key_id, nonce=nonce)


def rows(store: Store, statement: str) -> list[dict]:
    with store._database.read() as session:
        return [dict(row) for row in session.all(statement, {})]


class TestEnrolment:
    def test_it_lets_one_machine_in_once(self, store: Store):
        enrolment, token = store.enrolments.create(3600, "ada", ME)
        store.enrolments.check(token)
        made = store.credentials.register(token, NEW, "192.0.2.1")
        with pytest.raises(BadEnrolment, match="used already"):
            store.credentials.register(token, NEW)
        with pytest.raises(BadEnrolment, match="used already"):
            store.enrolments.check(token)
        [listed] = store.enrolments.list()
        assert (listed.id, listed.worker_id, listed.owner) == (enrolment.id, made.worker_id, "ada")
        [donor] = store.donors.list()
        assert (donor.worker.facts.name, donor.worker.facts.status, donor.owner) == ("attic", "offline", "ada")
        assert (donor.registered, donor.gpu_count, donor.models) == (True, 2, {"m"})
        assert (donor.config.version, donor.config.config) == (1, {"max_jobs_per_hour": 4})
        assert [entry.kind for entry in store.audit.list()] == ["registered", "enrolment_created"]
        assert token not in str(rows(store, "SELECT * FROM enrolments"))

    def test_of_many_at_once_one_gets_in(self, store: Store):
        _, token = store.enrolments.create(3600, None, ME)
        together = threading.Barrier(4)

        def register(_: int) -> bool:
            together.wait()
            try:
                store.credentials.register(token, NEW)
            except BadEnrolment:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(register, range(4))) == [False, False, False, True]
        assert len(store.donors.list()) == 1

    def test_what_lets_nobody_in(self, store: Store):
        late, expired = store.enrolments.create(-1, None, ME)
        taken, revoked = store.enrolments.create(3600, None, ME)
        assert store.enrolments.revoke(taken.prefix, ME)
        assert not store.enrolments.revoke(taken.prefix, ME)
        assert store.enrolments.revoke(late.id, ME)
        wrong = revoked[:-1] + ("A" if revoked[-1] != "A" else "B")
        for token, told in ((revoked, "took it back"), (wrong, "did not make it"), ("", "did not make it")):
            with pytest.raises(BadEnrolment, match=told):
                store.credentials.register(token, NEW)
        with pytest.raises(BadEnrolment):
            store.credentials.register(expired, NEW)
        assert store.donors.list() == []

    def test_an_owner_has_so_many_workers_and_no_more(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(credentials, "MOST_OF_OWNER", 1)
        first = registered(store, "ada")
        _, token = store.enrolments.create(3600, "ada", ME)
        with pytest.raises(TooManyWorkers, match="'ada' has 1 workers"):
            store.credentials.register(token, NEW)
        store.donors.block(first.worker_id, ME)
        assert store.credentials.register(token, NEW).worker_id, "the refusal spent nothing"


class TestCredentials:
    def test_nothing_of_them_lies_in_the_database(self, store: Store):
        made = registered(store)
        everything = str([rows(store, f"SELECT * FROM {table}") for table in ("credentials", "workers", "audit")])
        for secret in (made.tokens.token, made.tokens.refresh_token, made.signing_secret):
            assert secret not in everything
            assert secret[13:] not in everything

    def test_a_token_is_one_workers_own(self, store: Store):
        one, other = registered(store), registered(store)
        found = store.credentials.find(one.worker_id, one.tokens.token)
        assert found is not None
        assert (found.registered, found.token is not None, found.blocked) == (True, True, False)
        assert found.key == one.signing_secret.encode() == store.credentials.signing_secret(one.worker_id)
        for token in (other.tokens.token, one.tokens.refresh_token, one.tokens.token[:-1] + "x", "", "é"):
            wrong = store.credentials.find(one.worker_id, token)
            assert wrong is not None
            assert wrong.token is None or token == one.tokens.token
        assert store.credentials.find("w-none", one.tokens.token) is None
        assert store.credentials.signing_secret("w-none") is None

    def test_an_expired_or_revoked_token_says_why_to_its_owner_alone(self, store: Store):
        made = registered(store)
        with store._database.write() as session:
            session.run("UPDATE credentials SET expires_at = 1 WHERE kind = 'access'", {})
        found = store.credentials.find(made.worker_id, made.tokens.token)
        assert found is not None
        assert (found.token, "expired" in found.why) == (None, True)
        assert store.credentials.revoke(made.worker_id, ME)
        assert not store.credentials.revoke(made.worker_id, ME)
        found = store.credentials.find(made.worker_id, made.tokens.token)
        assert found is not None
        assert (found.why, found.key, found.registered) == ("it was revoked", None, True)
        stranger = store.credentials.find(made.worker_id, "igw_abcdefgh_" + "x" * 43)
        assert stranger is not None
        assert stranger.why == ""
        assert store.credentials.signing_secret(made.worker_id) is None


class TestNonces:
    def test_each_is_new_once_for_each_key(self, store: Store):
        assert store.nonces.use("w", "n")
        assert not store.nonces.use("w", "n")
        assert store.nonces.use("x", "n")
        assert store.nonces.forget(kept=60) == 0
        assert store.nonces.forget(kept=0) == 2
        assert store.nonces.use("w", "n")

    def test_of_many_at_once_one_is_first(self, store: Store):
        together = threading.Barrier(8)

        def use(number: int) -> bool:
            together.wait()
            return store.nonces.use("w", f"n{number % 2}")

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(use, range(8))) == 2


class TestHeartbeats:
    def test_the_first_of_a_process_opens_its_stay(self, store: Store):
        made = registered(store)
        stays = "SELECT incarnation, ended_at IS NULL AS open, graceful FROM sessions ORDER BY started_at"
        for _ in range(2):
            answer = beat(store, made.worker_id, "busy", report={"running": 1}, paused_reason=None)
            assert answer is not None
            assert (answer.config_version, answer.commands, answer.reliability) == (1, (), None)
        assert len(rows(store, stays)) == 1
        beat(store, made.worker_id, incarnation="j")
        first, second = rows(store, stays)
        assert (first["incarnation"], bool(first["open"]), bool(first["graceful"])) == ("i", False, False)
        assert (second["incarnation"], bool(second["open"])) == ("j", True)
        assert store.donors.leave(made.worker_id, "offline")
        assert bool(rows(store, stays)[1]["graceful"])
        beat(store, made.worker_id, incarnation="j")
        assert len(rows(store, stays)) == 3
        donor = store.donors.get(made.worker_id)
        assert donor is not None
        assert (donor.worker.facts.status, donor.incarnation) == ("online", "j")

    def test_many_at_once(self, store: Store):
        made = [registered(store) for _ in range(4)]
        with ThreadPoolExecutor(8) as pool:
            work = [pool.submit(beat, store, one.worker_id, "busy") for one in made for _ in range(5)]
            assert all(done.result() is not None for done in work)
        assert {donor.worker.facts.status for donor in store.donors.list()} == {"busy"}

    def test_with_a_proof_that_holds_it_is_taken_once(self, store: Store):
        made = registered(store)
        proof, said = proof_of(store, made), Beat(worker_id=made.worker_id, status="busy", incarnation="i")
        assert store.donors.heartbeat(said, proof) is not None, "the first of a process"
        with pytest.raises(NotProved):
            store.donors.heartbeat(said, proof)
        assert store.donors.heartbeat(said, replace(proof, nonce="n-2")) is not None
        assert not store.nonces.use(made.worker_id, "n-2"), "it is remembered where all nonces are"
        [stay] = rows(store, "SELECT * FROM sessions")
        assert stay["incarnation"] == "i"

    @pytest.mark.parametrize("way", ["heartbeat", "alone"])
    @pytest.mark.parametrize(
        "what", ["blocked", "token revoked", "token expired", "key revoked", "another's", "control"]
    )
    def test_a_proof_that_does_not_hold_changes_nothing(self, store: Store, what: str, way: str):
        made, other = registered(store), registered(store)
        proof = proof_of(store, made)
        beat(store, made.worker_id)
        changes = {
            "blocked": "UPDATE workers SET blocked_at = 1",
            "token revoked": "UPDATE credentials SET revoked_at = 1 WHERE kind = 'access'",
            "token expired": "UPDATE credentials SET expires_at = 1 WHERE kind = 'access'",
            "key revoked": "UPDATE credentials SET revoked_at = 1 WHERE kind = 'signing'",
        }
        if what in changes:
            with store._database.write() as session:
                session.run(changes[what], {})
        shown = proof_of(store, other) if what == "another's" else proof

        def held() -> bool:
            if way == "alone":
                return store.nonces.prove(made.worker_id, shown)
            try:
                store.donors.heartbeat(Beat(worker_id=made.worker_id, status="paused", incarnation="i"), shown)
            except NotProved:
                return False
            return True

        assert held() == (what == "control")
        if what != "control":
            assert rows(store, "SELECT * FROM nonces") == []
            donor = store.donors.get(made.worker_id)
            assert donor is not None
            assert donor.worker.facts.status == "online"

    def test_of_many_with_one_proof_one_is_taken(self, store: Store):
        made = registered(store)
        beat(store, made.worker_id)
        proof, said = proof_of(store, made), Beat(worker_id=made.worker_id, status="busy", incarnation="i")
        together = threading.Barrier(8)

        def one(number: int) -> bool:
            together.wait()
            try:
                store.donors.heartbeat(said, proof)
            except NotProved:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(one, range(8))) == 1

    def test_nobody_knows_it(self, store: Store):
        assert beat(store, "w-none") is None
        assert not store.donors.leave("w-none", "offline")
        assert store.donors.get("w-none") is None

    def test_a_command_is_said_until_it_is_obeyed(self, store: Store):
        made = registered(store)
        beat(store, made.worker_id)
        assert store.donors.command(made.worker_id, Order.DRAIN, ME)
        assert not store.donors.command("w-none", Order.DRAIN, ME)
        said = [beat(store, made.worker_id, status) for status in ("online", "online", "draining", "online")]
        assert [answer.commands for answer in said if answer] == [("drain",), ("drain",), (), ()]


class TestConfiguration:
    def test_versions(self, store: Store):
        made = registered(store)
        second = store.donors.set_config(made.worker_id, {"acceptance_rate": 0.5}, ME, expected=1)
        assert second is not None
        assert (second.version, second.config) == (2, {"acceptance_rate": 0.5})
        with pytest.raises(VersionConflict) as conflict:
            store.donors.set_config(made.worker_id, {}, ME, expected=1)
        assert conflict.value.current == 2
        same = store.donors.set_config(made.worker_id, {"acceptance_rate": 0.5}, ME)
        assert same is not None
        assert same.version == 2
        assert store.donors.config(made.worker_id) == second
        assert store.donors.config("w-none") is None
        assert store.donors.set_config("w-none", {}, ME) is None
        answer = beat(store, made.worker_id)
        assert answer is not None
        assert answer.config_version == 2

    def test_of_many_at_once_one_wins(self, store: Store):
        made = registered(store)
        together = threading.Barrier(4)

        def change(number: int) -> bool:
            together.wait()
            try:
                store.donors.set_config(made.worker_id, {"max_jobs_per_hour": number}, ME, expected=1)
            except VersionConflict:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(change, range(4))) == 1


def test_an_administrator_decides(store: Store):
    made = registered(store)

    def blocked() -> bool:
        found = store.credentials.find(made.worker_id, made.tokens.token)
        assert found is not None
        return found.blocked

    assert store.donors.block(made.worker_id, ME)
    assert store.donors.block(made.worker_id, ME)
    assert blocked()
    assert beat(store, made.worker_id) is None, "not even one that came at the same moment"
    assert store.donors.get(made.worker_id).worker.facts.status == "offline"
    assert store.donors.unblock(made.worker_id, ME)
    assert not blocked()
    assert store.donors.unlock(made.worker_id, ME)
    assert not store.donors.block("w-none", ME)
    found = store.credentials.find(made.worker_id, "")
    assert found is not None
    assert found.unlocked_at > 0
    assert [entry.kind for entry in store.audit.list(made.worker_id)] == [
        "unlocked",
        "unblocked",
        "blocked",
        "registered",
    ]
