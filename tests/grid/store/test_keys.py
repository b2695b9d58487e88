"""API keys open what they should, and only their hashes are kept."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from idlegrid.grid.store import Store


def test_a_key_is_found_by_its_secret_alone(store: Store):
    key, secret = store.keys.create("mine", ["jobs", "admin"], client_id="c", requests_per_minute=5)
    found = store.keys.find(secret)
    assert re.fullmatch(r"ig_[A-Za-z0-9]{8}_[A-Za-z0-9_-]{43}", secret)
    assert found == key
    assert (key.scopes, key.client_id, key.requests_per_minute) == ({"jobs", "admin"}, "c", 5)
    assert secret.startswith(f"ig_{key.prefix}_")
    other = "A" if secret[-2] != "A" else "B"
    for wrong in (secret[:-2] + other + secret[-1], secret[:-1], "", "ig_", f"ig_{key.prefix}_" + "x" * 43, "é" * 55):
        assert store.keys.find(wrong) is None


def test_the_secret_is_not_kept(store: Store):
    _, secret = store.keys.create("mine", ["jobs"])
    with store._database.read() as session:
        [row] = session.all("SELECT * FROM api_keys", {})
    assert secret not in str(dict(row))
    assert secret[12:] not in str(dict(row))


def test_keys_are_clients_of_their_own(store: Store):
    assert store.keys.create("a", [])[0].client_id != store.keys.create("a", [])[0].client_id


def test_revoked_and_expired_keys_open_nothing(store: Store):
    key, secret = store.keys.create("a", ["jobs"])
    _, late = store.keys.create("b", ["jobs"], expires_at=datetime.now(UTC) - timedelta(seconds=1))
    _, good = store.keys.create("c", ["jobs"], expires_at=datetime.now(UTC) + timedelta(days=1))
    assert store.keys.find(late) is None
    assert store.keys.find(good) is not None
    assert store.keys.revoke(key.prefix)
    assert not store.keys.revoke(key.id)
    assert not store.keys.revoke("nothing")
    assert store.keys.find(secret) is None
    assert [one.name for one in store.keys.list()] == ["c", "b", "a"]
    assert [one.revoked_at is not None for one in store.keys.list()] == [False, False, True]


def test_the_last_use_is_noted_now_and_then(store: Store):
    _, secret = store.keys.create("a", ["jobs"])
    store.keys.find(secret)
    [first] = store.keys.list()
    store.keys.find(secret)
    [second] = store.keys.list()
    assert first.last_used_at is not None
    assert second.last_used_at == first.last_used_at
