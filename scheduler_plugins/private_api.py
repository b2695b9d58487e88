"""What the rules rely on beyond distributed's public API: checked when attached, so that upgrades fail loudly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from distributed import Scheduler, Worker, __version__
from distributed.comm.core import BaseListener
from distributed.comm.tcp import TCP, BaseTCPConnector, TLSListener
from distributed.protocol.core import loads
from distributed.stealing import WorkStealing

TESTED_WITH = "2026.7.1"
"""The release of distributed that these signatures were read from."""

SIGNATURES: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "Scheduler.is_rootish": (Scheduler.is_rootish, ("self", "ts")),
    "Scheduler.decide_worker_non_rootish": (Scheduler.decide_worker_non_rootish, ("self", "ts")),
    "Scheduler.valid_workers": (Scheduler.valid_workers, ("self", "ts")),
    "Scheduler.worker_objective": (Scheduler.worker_objective, ("self", "ts", "ws")),
    "Scheduler.stimulus_queue_slots_maybe_opened": (
        Scheduler.stimulus_queue_slots_maybe_opened,
        ("self", "stimulus_id"),
    ),
    "Scheduler.bulk_schedule_unrunnable_after_adding_worker": (
        Scheduler.bulk_schedule_unrunnable_after_adding_worker,
        ("self", "ws"),
    ),
    "Scheduler._check_unrunnable_task_timeouts": (
        Scheduler._check_unrunnable_task_timeouts,
        ("self", "timestamp", "recommendations", "stimulus_id"),
    ),
    "Scheduler.heartbeat_worker": (
        Scheduler.heartbeat_worker,
        ("self", "address", "resolve_address", "now", "resources", "host_info", "metrics", "executing", "extensions"),
    ),
    "Scheduler.handle_worker_status_change": (
        Scheduler.handle_worker_status_change,
        ("self", "status", "worker", "stimulus_id"),
    ),
    "Scheduler.handle_long_running": (
        Scheduler.handle_long_running,
        ("self", "key", "worker", "run_id", "compute_duration", "stimulus_id"),
    ),
    "Scheduler.transition": (Scheduler.transition, ("self", "key", "finish", "stimulus_id", "kwargs")),
    "Scheduler.transitions": (Scheduler.transitions, ("self", "recommendations", "stimulus_id")),
    "Scheduler._reschedule": (Scheduler._reschedule, ("self", "key", "worker", "stimulus_id")),
    "Scheduler._get_prefix_duration": (Scheduler._get_prefix_duration, ("self", "prefix")),
    "Scheduler.get_comm_cost": (Scheduler.get_comm_cost, ("self", "ts", "ws")),
    "WorkStealing._get_thief": (
        WorkStealing._get_thief,
        ("self", "scheduler", "ts", "potential_thieves", "occupancies"),
    ),
    "WorkStealing._add_to_in_flight": (WorkStealing._add_to_in_flight, ("self", "ts", "info")),
    "WorkStealing._remove_from_in_flight": (WorkStealing._remove_from_in_flight, ("self", "ts")),
    "WorkStealing.move_task_confirm": (
        WorkStealing.move_task_confirm,
        ("self", "key", "state", "stimulus_id", "worker"),
    ),
    "Scheduler.remove_worker": (Scheduler.remove_worker, ("self", "address", "stimulus_id", "expected", "close")),
    "Worker.execute": (Worker.execute, ("self", "key", "stimulus_id")),
    "Worker.log_event": (Worker.log_event, ("self", "topic", "msg")),
    "TCP.read": (TCP.read, ("self", "deserializers")),
    "BaseTCPConnector.connect": (BaseTCPConnector.connect, ("self", "address", "deserialize", "connection_args")),
    "BaseListener.on_connection": (BaseListener.on_connection, ("self", "comm", "handshake_overrides")),
    "TLSListener": (
        TLSListener,
        (
            "address",
            "comm_handler",
            "deserialize",
            "allow_offload",
            "default_host",
            "default_port",
            "connection_args",
        ),
    ),
    "protocol.loads": (loads, ("frames", "deserialize", "deserializers")),
}
"""Name → the method, and the parameters that we call or override it with."""


def differences() -> list[str]:
    """What looks different in the installed distributed, one sentence each."""
    return [
        f"{name} takes ({', '.join(found)}), the rules were written for ({', '.join(expected)})"
        for name, (method, expected) in SIGNATURES.items()
        if (found := tuple(signature(method).parameters)) != expected
    ]


def check() -> None:
    """Raise RuntimeError when the installed distributed isn't one that the rules fit."""
    found = differences()
    if found:
        raise RuntimeError(
            f"distributed {__version__} is not what the grid's rules were written for ({TESTED_WITH}): "
            f"{'; '.join(found)}. Install distributed=={TESTED_WITH}."
        )
