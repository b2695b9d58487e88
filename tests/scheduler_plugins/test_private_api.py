"""An upgrade of distributed fails loudly: here when a method we lean on was edited, at start when its face changed."""

from hashlib import sha256
from inspect import getsource

import distributed
import pytest
from distributed import Scheduler, Worker
from distributed.broker import Broker
from distributed.comm.core import BaseListener, Listener
from distributed.comm.tcp import TCP, BaseTCPListener
from distributed.core import Server
from distributed.protocol.core import loads
from distributed.protocol.serialize import msgpack_decode_default
from distributed.scheduler import SchedulerState, decide_worker
from distributed.stealing import WorkStealing

from idlegrid.scheduler_plugins import private_api

# What we override, what calls our overrides, and whose inner order we rely on. After an upgrade: read the diff of each
# method that is named here, adapt the rules, then replace the digest.
SOURCES = {
    Broker.publish: "81292f427f39",
    Scheduler._check_no_workers: "7f40b9b47409",
    Scheduler._check_unrunnable_task_timeouts: "acfb78a79d10",
    Scheduler._reschedule: "6e4e6842da3d",
    Scheduler.add_worker: "57f6af6e5d6c",
    Scheduler.handle_long_running: "8277cb6ecb8a",
    Scheduler.handle_task_finished: "f2459ffb4e7e",
    Scheduler.handle_worker_status_change: "206e18419a5c",
    Scheduler.heartbeat_worker: "a4c0156b01a3",
    Scheduler.remove_worker: "4ce0b53de299",
    Scheduler.stimulus_queue_slots_maybe_opened: "2aa9c5a70172",
    Scheduler.stimulus_task_erred: "1ce6cd606247",
    SchedulerState._add_to_processing: "122c70fee451",
    SchedulerState._exit_processing_common: "14949649f5dd",
    SchedulerState._transition: "b4f2e3463c03",
    SchedulerState._transition_no_worker_erred: "675a310b7c33",
    SchedulerState._transition_no_worker_processing: "797beb47064b",
    SchedulerState._transition_processing_erred: "670f6a59e212",
    SchedulerState._transition_processing_memory: "85c93d843473",
    SchedulerState._transition_processing_released: "79a2d521e9ac",
    SchedulerState._transition_waiting_no_worker: "9706ccda7ae1",
    SchedulerState._transition_waiting_processing: "c7f0cf0e0bd3",
    SchedulerState._transitions: "223e6d801674",
    SchedulerState.bulk_schedule_unrunnable_after_adding_worker: "2205653be0e0",
    SchedulerState.decide_worker_non_rootish: "1aa228f24ad3",
    SchedulerState.is_rootish: "8ea0f7489699",
    SchedulerState.valid_workers: "0e4c054c820b",
    SchedulerState.worker_objective: "86f78b3327dd",
    WorkStealing._add_to_in_flight: "eaa048650eda",
    WorkStealing._get_thief: "aeb1c5c596c6",
    WorkStealing._remove_from_in_flight: "c1a65d4d0544",
    WorkStealing.balance: "098e23147c70",
    WorkStealing.move_task_confirm: "d6f7522f6ff6",
    WorkStealing.move_task_request: "f4d04351e4aa",
    Worker._register_with_scheduler: "03a3266783db",
    Worker.get_metrics: "da3c2e202322",
    decide_worker: "215ddf733af4",
    BaseListener.on_connection: "4e0b796e19f6",
    BaseTCPListener._handle_stream: "a548983a43a0",
    Listener.on_connection: "e93e82b8973c",
    Server._handle_comm: "919c1291fbed",
    Server.handle_stream: "72ba087c9df7",
    TCP.read: "91c981fadc45",
    loads: "06d746db9f54",
    msgpack_decode_default: "dcb6d56d653f",
}


def digest(method):
    return sha256(getsource(method).encode()).hexdigest()[:12]


@pytest.mark.parametrize("method", SOURCES, ids=lambda method: method.__qualname__)
def test_a_method_that_we_lean_on_is_the_one_that_we_read(method):
    assert digest(method) == SOURCES[method], f"{method.__qualname__} changed in distributed {distributed.__version__}"


def test_the_installed_release_is_the_tested_one():
    assert distributed.__version__ == private_api.TESTED_WITH
    assert private_api.differences() == []


def test_another_signature_refuses_to_start(monkeypatch):
    changed = {**private_api.SIGNATURES, "Scheduler.valid_workers": (lambda self, ts, more: None, ("self", "ts"))}
    monkeypatch.setattr(private_api, "SIGNATURES", changed)
    with pytest.raises(RuntimeError, match=r"valid_workers takes \(self, ts, more\).*Install distributed=="):
        private_api.check()
