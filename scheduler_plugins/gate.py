"""Who may ask what of whom on the Dask network, by the role in the certificate. Pure; `gated_comm` enforces it.

A stock Dask grid makes no difference between its peers: a worker's certificate is enough to have the scheduler, and
through it every machine, run any code. Here a worker may do what a worker does, for itself alone; everything that is
not listed is refused. Clients may do everything: their tasks are code that others run.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..grid.peers import Peer, Role
from .facts import KEY

Message = Mapping[str, Any]
PICKLED = frozenset({"__Pickled__", "__Enum__"})
"""Fields of a message by which Dask runs code, or looks names up, while it reads: before anybody could say no."""
ADDRESS = "tls://"

_STREAM = frozenset(
    {
        "task-finished",
        "task-erred",
        "release-worker-data",
        "add-keys",
        "long-running",
        "reschedule",
        "keep-alive",
        "log-event",
        "worker-status-change",
        "request-refresh-who-has",
        "steal-response",
        "close-stream",
    }
)
"""What a registered worker tells its scheduler."""
_TOPICS = frozenset({"all", "warn"})
"""Topics of events that a worker may not use: the scheduler's own, and the one whose events clients unpickle."""


class Refusal(Exception):
    """What a peer asked for is not for its role. The message says what."""


class Gate:
    """What one process lets its peers do."""

    def __init__(self, own: Role, scheduler: str | None = None) -> None:
        """`own`: the role of this process; `scheduler`: address of the scheduler that it works for."""
        self.own, self._scheduler = own, _place(scheduler)
        self._addresses: dict[str, str] = {}
        self._connected: dict[str, Callable[[], bool]] = {}

    def expected(self, address: str) -> Collection[Role]:
        """Who may answer at an address that this process connects to, with or without its scheme."""
        match self.own:
            case Role.SCHEDULER:
                return (Role.WORKER,)
            case Role.WORKER if _place(address) != self._scheduler:
                return (Role.WORKER,)
        return (Role.SCHEDULER,)

    def plain(self, peer: Peer, *, incoming: bool) -> bool:
        """Whether only plain data is read from a peer: nothing of it is unpickled here."""
        if peer.role is not Role.WORKER:
            return False
        return incoming or self.own is Role.SCHEDULER  # a worker unpickles the data that it fetched from another one

    def greet(self, peer: Peer | None) -> Peer:
        """Whether somebody who connects may say anything at all. Raises Refusal."""
        if peer is None:
            raise Refusal("a certificate without a role")
        if not self.own.listens or (self.own is Role.SCHEDULER and peer.role is Role.SCHEDULER):
            raise Refusal(f"{peer} has nothing to ask of a {self.own}")
        return peer

    def check(self, peer: Peer, message: Any, *, same_host: bool, connected: Callable[[], bool]) -> None:
        """Whether a peer that was greeted may say this. Raises Refusal.

        `message`: what was read: one call, or a list of them on a stream. `connected`: whether it still is.
        """
        if peer.role is not Role.WORKER:
            return
        for call in message if isinstance(message, list | tuple) else (message,):
            if isinstance(call, Mapping):
                self._check(peer, call, same_host, connected)

    def _check(self, peer: Peer, call: Message, same_host: bool, connected: Callable[[], bool]) -> None:
        op = call.get("op")
        if not isinstance(op, str):
            raise Refusal(f"a call without a name: {type(op).__name__}")
        if op == "close":
            return
        if self.own is Role.WORKER:
            if op != "get_data" and not (op == "close_gracefully" and same_host):  # of a nanny, by its own worker
                raise Refusal(op)
            return
        if op in _STREAM:
            _on_stream(peer, op, call)
        elif op == "register-worker":
            self._register(peer, call, connected)
        elif (rule := _CALLS.get(op)) is None:
            raise Refusal(op)
        else:
            rule(self, peer, call)

    def _register(self, peer: Peer, call: Message, connected: Callable[[], bool]) -> None:
        """A worker's address is its own from now on, until somebody else has it after it is gone."""
        address = _literal(call.get("address"))
        if (holder := self._addresses.get(address)) not in (None, peer.name) and self._connected[address]():
            raise Refusal(f"register-worker at {address}, which is {holder}'s")
        name = str(call.get("name"))
        if "://" in name and name != address:  # Dask would take the name for an address
            raise Refusal(f"register-worker by the name {name[:80]!r}")
        _own_facts(peer, call)
        self._addresses[address], self._connected[address] = peer.name, connected
        for old in [one for one, there in self._connected.items() if one != address and not there()]:
            del self._addresses[old], self._connected[old]

    def owns(self, peer: Peer, address: object) -> bool:
        """Whether a worker registered this address."""
        return isinstance(address, str) and self._addresses.get(address) == peer.name


def _on_stream(peer: Peer, op: str, call: Message) -> None:
    if "worker" in call:  # Dask would take it for that worker's word
        raise Refusal(f"{op} in the name of another worker")
    if op == "log-event":
        _event(peer, call)


def _event(peer: Peer, call: Message) -> None:
    topic, said = call.get("topic"), call.get("msg")
    topics = topic if isinstance(topic, list | tuple) else (topic,)
    if any(not isinstance(one, str) or one in _TOPICS for one in topics):
        raise Refusal(f"log-event on the topic {str(topic)[:80]!r}")
    if KEY in topics and isinstance(said, Mapping):
        _own_facts(peer, {"metrics": {KEY: said}})


def _own_facts(peer: Peer, call: Message) -> None:
    """A worker speaks as the donor that its certificate names."""
    metrics = call.get("metrics")
    said = metrics.get(KEY) if isinstance(metrics, Mapping) else None
    donor = said.get("donor") if isinstance(said, Mapping) else None
    if not isinstance(donor, Mapping):
        return  # no facts, no work
    if not isinstance(donor.get("id"), str) or not peer.owns(donor["id"]):
        raise Refusal(f"facts of the donor {str(donor.get('id'))[:80]!r}")


def _heartbeat(gate: Gate, peer: Peer, call: Message) -> None:
    _address(gate, peer, call)
    _own_facts(peer, call)


def _address(gate: Gate, peer: Peer, call: Message) -> None:
    if not gate.owns(peer, call.get("address")):
        raise Refusal(f"{call['op']} for {str(call.get('address'))[:80]!r}, which it did not register")


def _workers(gate: Gate, peer: Peer, call: Message) -> None:
    named = call.get("workers")
    if "names" in call or not isinstance(named, list | tuple) or not named:
        raise Refusal(f"{call['op']} for other workers")
    if not all(gate.owns(peer, one) for one in named):
        raise Refusal(f"{call['op']} for {str(named)[:80]}, which it did not register")


def _control(gate: Gate, peer: Peer, call: Message) -> None:
    donor = call.get("donor")
    if not isinstance(donor, str) or not peer.owns(donor):
        raise Refusal(f"grid_control of the donor {str(donor)[:80]!r}")


def _identity(gate: Gate, peer: Peer, call: Message) -> None:
    if call.get("n_workers") != 0:
        raise Refusal("identity with the addresses of all workers")


def _nanny(gate: Gate, peer: Peer, call: Message) -> None:
    _literal(call.get("address"))


_CALLS: Mapping[str, Callable[[Gate, Peer, Message], None]] = {
    "heartbeat_worker": _heartbeat,
    "unregister": _address,
    "processing": _workers,
    "retire_workers": _workers,
    "grid_control": _control,
    "identity": _identity,
    "register_nanny": _nanny,
    "log_event": lambda gate, peer, call: _event(peer, call),
}
"""What a worker may ask of its scheduler, each with a look at its arguments."""


def _literal(address: object) -> str:
    """An address that is written in one way only. Raises Refusal."""
    host, _, port = str(address).removeprefix(ADDRESS).rpartition(":")
    try:
        found = ipaddress.ip_address(host.strip("[]"))
        written = f"{ADDRESS}[{found}]:{int(port)}" if found.version == 6 else f"{ADDRESS}{found}:{int(port)}"
    except ValueError:
        written = ""
    if written != address:
        raise Refusal(f"register-worker at {str(address)[:80]!r}: it must be like tls://192.0.2.7:4711")
    return written


def _place(address: str | None) -> str | None:
    return None if address is None else address.rpartition("://")[2]
