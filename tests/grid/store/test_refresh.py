"""Refresh tokens rotate: a lost answer may be asked for again, a stolen token closes its family (A7)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from idlegrid.grid.store import BadRefreshToken, By, NewWorker, Registration, Store

ME = By("w", "127.0.0.1")


@pytest.fixture
def made(store: Store) -> Registration:
    _, token = store.enrolments.create(3600, None, ME)
    return store.credentials.register(token, NewWorker(name="n", region="oceania"))


def refresh(store: Store, made: Registration, token: str):
    return store.credentials.refresh(made.worker_id, token, ME)


def let_pass(store: Store, seconds: float) -> None:
    by = round(seconds * 1_000_000)
    with store._database.write() as session:
        session.run("UPDATE credentials SET spent_at = spent_at - :by, expires_at = expires_at - :by", {"by": by})


def opens(store: Store, made: Registration, token: str) -> bool:
    found = store.credentials.find(made.worker_id, token)
    return found is not None and found.token is not None


def show(store: Store, made: Registration, token: str) -> None:
    """As the gate does when a token is shown."""
    found = store.credentials.find(made.worker_id, token)
    assert found is not None
    assert found.token is not None
    store.credentials.shown(found.token)


def test_both_tokens_are_new_and_the_old_one_ends_within_a_minute(store: Store, made: Registration):
    old = made.tokens
    pair = refresh(store, made, old.refresh_token)
    assert {pair.token, pair.refresh_token}.isdisjoint({old.token, old.refresh_token})
    assert opens(store, made, pair.token)
    assert opens(store, made, old.token), "requests may be under way with it"
    let_pass(store, 61)
    assert not opens(store, made, old.token)
    assert opens(store, made, pair.token)


def test_a_lost_answer_is_given_again(store: Store, made: Registration):
    first = refresh(store, made, made.tokens.refresh_token)
    again = refresh(store, made, made.tokens.refresh_token)
    assert again == first
    let_pass(store, 59)
    assert refresh(store, made, made.tokens.refresh_token).refresh_token == first.refresh_token
    show(store, made, first.token)
    assert refresh(store, made, first.refresh_token).token != first.token


def test_two_at_once_are_given_the_same(store: Store, made: Registration):
    together = threading.Barrier(2)

    def ask(_: int):
        together.wait()
        return refresh(store, made, made.tokens.refresh_token)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(ask, range(2))
    assert one == other


@pytest.mark.parametrize("proof", ["its access token was shown", "it was spent itself", "a minute went by"])
def test_reuse_closes_the_family(store: Store, made: Registration, proof: str):
    successor = refresh(store, made, made.tokens.refresh_token)
    newest = successor
    match proof:
        case "its access token was shown":
            show(store, made, successor.token)
        case "it was spent itself":
            newest = refresh(store, made, successor.refresh_token)
        case _:
            let_pass(store, 61)
    with pytest.raises(BadRefreshToken, match="stolen") as refusal:
        refresh(store, made, made.tokens.refresh_token)
    assert refusal.value.stolen
    for pair in (made.tokens, successor, newest):
        assert not opens(store, made, pair.token)
        with pytest.raises(BadRefreshToken, match="revoked"):
            refresh(store, made, pair.refresh_token)
    assert store.credentials.signing_secret(made.worker_id) is None
    reused = [entry for entry in store.audit.list(made.worker_id) if entry.kind == "refresh_token_reused"]
    assert [(entry.actor, entry.address, entry.detail) for entry in reused] == [("w", "127.0.0.1", {"generation": 0})]


def test_without_the_rule_a_thief_would_go_on(store: Store, made: Registration, monkeypatch: pytest.MonkeyPatch):
    """The control of the test above: the family lives on where reuse is not looked for."""
    from idlegrid.grid.store import credentials
    from idlegrid.grid.tokens import Renewal

    monkeypatch.setattr(credentials, "renewal", lambda state, now: Renewal.ROTATE)
    show(store, made, refresh(store, made, made.tokens.refresh_token).token)
    stolen = refresh(store, made, made.tokens.refresh_token)
    assert opens(store, made, stolen.token)


def test_what_renews_nothing(store: Store, made: Registration):
    for token in ("", made.tokens.token, made.tokens.refresh_token[:-1] + "x"):
        if token != made.tokens.refresh_token:
            with pytest.raises(BadRefreshToken, match="not one of"):
                refresh(store, made, token)
    with pytest.raises(BadRefreshToken, match="not one of"):
        store.credentials.refresh("w-other", made.tokens.refresh_token, ME)
    let_pass(store, 90 * 86_400 + 1)
    with pytest.raises(BadRefreshToken, match="expired"):
        refresh(store, made, made.tokens.refresh_token)


def test_successors_are_not_kept_for_long(store: Store, made: Registration):
    pair = refresh(store, made, made.tokens.refresh_token)
    let_pass(store, 61)
    refresh(store, made, pair.refresh_token)
    with store._database.read() as session:
        sealed = session.all("SELECT generation FROM credentials WHERE kind = 'refresh' AND sealed IS NOT NULL", {})
    assert [row["generation"] for row in sealed] == [1]
