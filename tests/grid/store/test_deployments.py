"""Deployments: what is wanted, with versions and an audit, and what the holder of the lease reports beside it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from idlegrid.grid.deployments import DeploymentReport, DeploymentSpec, DeploymentState, HeldLayers
from idlegrid.grid.store import SERVING, AlreadyDeployed, By, Store, VersionConflict

ME = By("ada")
SPEC = DeploymentSpec(model="m", stages=3, options={"max_batch": 4}, region="oceania")
READY = DeploymentReport(
    state=DeploymentState.READY, version=1, ready=1, num_layers=4, coverage=(HeldLayers("d", 0, 4, "ready", 7),)
)


def fence_of(store: Store, holder: str = "a") -> int:
    lease = store.leases.hold(SERVING, holder, 30)
    assert lease is not None
    return lease.fence


def test_a_deployment_is_wanted_changed_and_withdrawn(store: Store):
    made = store.deployments.create(SPEC, ME)
    assert (made.spec, made.version, made.wanted, made.actor) == (SPEC, 1, True, "ada")
    assert (made.report, made.reported_at) == (DeploymentReport(), None)
    assert store.deployments.get("m") == made
    assert store.deployments.get("other") is None
    ranges = [[0, 2], [2, 4]]
    changed = store.deployments.change("m", {"replicas": 2, "stages": None, "layers": ranges}, By("bob"))
    assert changed is not None
    assert (changed.version, changed.actor, changed.spec.layers) == (2, "bob", ((0, 2), (2, 4)))
    assert changed.updated_at > made.updated_at == made.created_at == changed.created_at
    assert store.deployments.change("m", {"replicas": 2}, ME) == changed, "the same is no change"
    assert store.deployments.change("other", {"replicas": 2}, ME) is None
    ended = store.deployments.withdraw("m", ME)
    assert ended is not None
    assert (ended.wanted, ended.version) == (False, 3)
    assert store.deployments.withdraw("m", ME) is None
    assert store.deployments.change("m", {"replicas": 1}, ME) is None
    assert [entry.kind for entry in store.audit.list()] == ["undeployed", "deployment_changed", "deployed"]
    assert store.audit.list()[1].actor == "bob"


def test_a_model_is_wanted_once(store: Store):
    store.deployments.create(SPEC, ME)
    with pytest.raises(AlreadyDeployed, match="m is deployed already"):
        store.deployments.create(SPEC, ME)
    store.deployments.withdraw("m", ME)
    again = store.deployments.create(DeploymentSpec(model="m"), ME)
    assert (again.version, again.wanted, again.spec.stages) == (3, True, None), "versions are never used twice"


def test_who_read_an_old_version_changes_nothing(store: Store):
    store.deployments.create(SPEC, ME)
    store.deployments.change("m", {"replicas": 5}, ME, expected=1)
    with pytest.raises(VersionConflict, match="at version 2"):
        store.deployments.change("m", {"replicas": 6}, ME, expected=1)
    with pytest.raises(VersionConflict):
        store.deployments.withdraw("m", ME, expected=1)
    assert store.deployments.get("m").spec.replicas == 5


def test_only_one_of_those_who_change_at_once_wins(store: Store):
    store.deployments.create(SPEC, ME)

    def change(number: int) -> bool:
        try:
            return store.deployments.change("m", {"replicas": number}, ME, expected=1) is not None
        except VersionConflict:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(change, (2, 3, 4, 5))) == [False, False, False, True]


def test_only_one_of_those_who_deploy_at_once_wins(store: Store):
    def deploy(number: int) -> bool:
        try:
            return store.deployments.create(SPEC.change(replicas=number), ME) is not None
        except AlreadyDeployed:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(deploy, (2, 3, 4, 5))) == [False, False, False, True]


def test_a_report_lies_beside_and_is_fenced(store: Store):
    store.deployments.create(SPEC, ME)
    fence = fence_of(store)
    assert store.deployments.report("m", READY, fence)
    assert not store.deployments.report("other", READY, fence)
    record = store.deployments.get("m")
    assert (record.report, record.version) == (READY, 1)
    assert record.reported_at >= record.updated_at
    store.leases.release(SERVING, "a")
    later = fence_of(store, "b")
    assert later == fence + 1
    assert not store.deployments.report("m", DeploymentReport(), fence), "whoever lost the lease says nothing any more"
    assert store.deployments.get("m").report == READY


def test_only_what_is_withdrawn_can_be_gone(store: Store):
    store.deployments.create(SPEC, ME)
    fence = fence_of(store)
    assert not store.deployments.gone("m", fence)
    store.deployments.withdraw("m", ME)
    assert not store.deployments.gone("m", fence + 1)
    assert store.deployments.gone("m", fence)
    assert store.deployments.list() == []


def test_in_the_order_in_which_they_were_made(store: Store):
    for model in ("b", "a", "c"):
        store.deployments.create(DeploymentSpec(model=model), ME)
    store.deployments.change("b", {"replicas": 2}, ME)
    assert [one.spec.model for one in store.deployments.list()] == ["b", "a", "c"]


def test_one_holds_a_lease_until_it_ends(store: Store):
    assert store.leases.look("x") is None
    mine = store.leases.hold("x", "a", 30, "http://here:1")
    assert (mine.holder, mine.fence, mine.place, mine.held) == ("a", 1, "http://here:1", True)
    assert store.leases.hold("x", "b", 30) is None
    kept = store.leases.hold("x", "a", 30, "http://here:1")
    assert (kept.fence, kept.until > mine.until) == (1, True)
    assert not store.leases.release("x", "b")
    assert store.leases.release("x", "a")
    assert not store.leases.look("x").held
    theirs = store.leases.hold("x", "b", -1)
    assert (theirs.holder, theirs.fence) == ("b", 2)
    assert store.leases.hold("x", "a", 30).fence == 3, "b's was over"
    assert store.leases.hold("y", "b", 30).fence == 1, "another name is another lease"


def test_who_comes_at_once_is_one(store: Store):
    with ThreadPoolExecutor(4) as pool:
        held = list(pool.map(lambda name: store.leases.hold("x", name, 30), "abcd"))
    assert sum(lease is not None for lease in held) == 1
