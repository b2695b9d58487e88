"""The rules of the gate: what a role may ask of whom. Pure."""

from functools import partial

import pytest

from idlegrid.grid.peers import Peer, Role
from idlegrid.scheduler_plugins.gate import _CALLS, _STREAM, Gate, Refusal

W, V = Peer(Role.WORKER, "w"), Peer(Role.WORKER, "v")
MINE, THEIRS = "tls://192.0.2.1:4711", "tls://192.0.2.2:4711"
HERE, GONE = (lambda: True), (lambda: False)


def facts(donor):
    return {"idlegrid": {"donor": {"id": donor}, "report": {}}}


def registration(address=MINE, donor="w", **more):
    return {"op": "register-worker", "address": address, "name": "a name", "metrics": facts(donor)} | more


@pytest.fixture
def says():
    """What worker `w`, which is registered beside worker `v`, says to the scheduler."""
    gate = Gate(Role.SCHEDULER)
    gate.check(W, registration(), same_host=False, connected=HERE)
    gate.check(V, registration(THEIRS, "v"), same_host=False, connected=HERE)
    return partial(gate.check, W, same_host=False, connected=HERE)


ALLOWED = [
    registration("tls://192.0.2.1:4712"),
    registration("tls://[2001:db8::1]:4712", "w/0"),
    registration("tls://192.0.2.1:4712", name="tls://192.0.2.1:4712"),
    {"op": "heartbeat_worker", "address": MINE, "metrics": facts("w")},
    {"op": "heartbeat_worker", "address": MINE, "metrics": {}},
    {"op": "unregister", "address": MINE},
    {"op": "register_nanny", "address": "tls://192.0.2.1:4713"},
    {"op": "identity", "n_workers": 0},
    {"op": "processing", "workers": [MINE]},
    {"op": "retire_workers", "workers": (MINE,)},
    {"op": "grid_control", "donor": "w", "action": "drain"},
    {"op": "log_event", "topic": "worker-restart-memory", "msg": {}},
    {"op": "close"},
    ({"op": "task-finished", "key": "x"}, {"op": "log-event", "topic": "idlegrid", "msg": facts("w")["idlegrid"]}),
    [{"op": "steal-response", "key": "x", "state": "ready"}, {"op": "keep-alive"}, {"op": "close-stream"}],
    "OK",
]


@pytest.mark.parametrize("message", ALLOWED, ids=repr)
def test_a_worker_may_do_a_worker_s_work(says, message):
    says(message)


REFUSED = [
    {"op": "register-client", "client": "x"},
    {"op": "run_function"},
    {"op": "connection_stream"},
    {"op": "nonsense"},
    {"op": None},
    {"op": ["identity"]},
    {},
    {"op": "identity"},
    {"op": "identity", "n_workers": -1},
    registration(THEIRS),
    registration("tls://192.0.2.02:4711"),
    registration("tls://192.0.2.2:04711"),
    registration("tls://localhost:4711"),
    registration("tcp://192.0.2.1:4711"),
    registration("w"),
    registration(None),
    registration(name=THEIRS),
    registration(donor="v"),
    registration(donor="w2"),
    registration(donor=7),
    {"op": "heartbeat_worker", "address": THEIRS, "metrics": facts("w")},
    {"op": "heartbeat_worker", "address": MINE, "metrics": facts("v")},
    {"op": "heartbeat_worker", "address": "tls://192.0.2.9:1"},
    {"op": "heartbeat_worker", "address": [MINE]},
    {"op": "unregister", "address": THEIRS},
    {"op": "unregister", "address": "a name"},
    {"op": "unregister"},
    {"op": "processing"},
    {"op": "processing", "workers": None},
    {"op": "processing", "workers": []},
    {"op": "retire_workers", "workers": [MINE, THEIRS]},
    {"op": "retire_workers", "workers": [MINE], "names": ["v"]},
    {"op": "grid_control", "donor": "v", "action": "drain"},
    {"op": "grid_control", "donor": None, "action": "drain"},
    {"op": "log_event", "topic": "warn", "msg": {"message": b"a pickle"}},
    [{"op": "keep-alive"}, {"op": "update-graph"}],
    [{"op": "client-releases-keys", "keys": ["x"], "client": "y"}],
    [{"op": "task-finished", "key": "x", "worker": THEIRS}],
    [{"op": "log-event", "topic": ["x", "warn"], "msg": {"message": b"a pickle"}}],
    [{"op": "log-event", "topic": "all", "msg": {"action": "remove-worker", "worker": THEIRS}}],
    [{"op": "log-event", "topic": "idlegrid", "msg": facts("v")["idlegrid"]}],
    ({"op": "close-client", "client": "x"},),
]


@pytest.mark.parametrize("message", REFUSED, ids=repr)
def test_a_worker_may_do_nothing_else(says, message):
    with pytest.raises(Refusal):
        says(message)


def test_the_address_of_a_worker_that_is_gone_is_free():
    gate = Gate(Role.SCHEDULER)
    gate.check(W, registration(), same_host=False, connected=GONE)
    gate.check(V, registration(MINE, "v"), same_host=False, connected=HERE)
    assert gate.owns(V, MINE)
    with pytest.raises(Refusal, match="did not register"):
        gate.check(W, {"op": "unregister", "address": MINE}, same_host=False, connected=HERE)


def test_what_is_remembered_of_workers_that_are_gone_is_forgotten():
    gate = Gate(Role.SCHEDULER)
    for port in range(1, 500):
        gate.check(W, registration(f"tls://192.0.2.1:{port}"), same_host=False, connected=GONE)
    assert len(gate._addresses) == len(gate._connected) == 1


def test_no_word_is_both_a_call_and_on_the_stream():
    """The gate does not ask which of the two a connection is: Dask does, and knows no word that is both."""
    assert not _STREAM & (_CALLS.keys() | {"register-worker"})


@pytest.mark.parametrize("role", [Role.CLIENT, Role.API])
@pytest.mark.parametrize("own", [Role.SCHEDULER, Role.WORKER])
def test_a_client_may_do_everything(own, role):
    gate = Gate(own)
    peer = gate.greet(Peer(role, "me"))
    gate.check(peer, {"op": "run_function"}, same_host=False, connected=HERE)
    assert not gate.plain(peer, incoming=True)


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (Role.SCHEDULER, None),
        (Role.WORKER, None),
        (Role.SCHEDULER, Peer(Role.SCHEDULER, "another")),
        (Role.CLIENT, W),
        (Role.API, W),
    ],
)
def test_who_has_no_business_here_is_not_greeted(own, peer):
    with pytest.raises(Refusal):
        Gate(own).greet(peer)


@pytest.mark.parametrize("op", ["run", "run_coroutine", "plugin-add", "actor_execute", "terminate", "upload_file", ""])
def test_a_worker_only_fetches_data_from_another(op):
    gate = Gate(Role.WORKER, "tls://192.0.2.9:8786")
    gate.check(W, {"op": "get_data", "keys": ["x"]}, same_host=False, connected=HERE)
    with pytest.raises(Refusal):
        gate.check(W, {"op": op}, same_host=True, connected=HERE)


def test_a_nanny_is_told_to_go_from_its_own_machine_only():
    gate = Gate(Role.WORKER)
    gate.check(W, {"op": "close_gracefully"}, same_host=True, connected=HERE)
    with pytest.raises(Refusal):
        gate.check(W, {"op": "close_gracefully"}, same_host=False, connected=HERE)


def test_nothing_of_a_worker_is_unpickled_at_the_scheduler():
    gate = Gate(Role.SCHEDULER)
    assert gate.plain(W, incoming=True)
    assert gate.plain(W, incoming=False)
    assert Gate(Role.WORKER).plain(W, incoming=True)
    assert not Gate(Role.WORKER).plain(W, incoming=False)  # the data that it fetched


def test_who_should_answer():
    worker = Gate(Role.WORKER, "tls://192.0.2.9:8786")
    assert worker.expected("192.0.2.9:8786") == worker.expected("tls://192.0.2.9:8786") == (Role.SCHEDULER,)
    assert worker.expected("192.0.2.9:8787") == (Role.WORKER,)
    assert Gate(Role.SCHEDULER).expected("192.0.2.1:4711") == (Role.WORKER,)
    assert Gate(Role.CLIENT).expected("192.0.2.1:4711") == (Role.SCHEDULER,)
