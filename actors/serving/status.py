"""How a replica is, as its host tells it with every heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from .wire import ProtocolError


class HostState(StrEnum):
    """Where a host is in its life."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """The engine could not be loaded, or broke; `why` says how."""
    CLOSING = "closing"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """What a host says of its engine and of its donor."""

    state: HostState = HostState.LOADING
    why: str = ""
    """For FAILED: what happened."""
    running: int = 0
    """Requests in the running batch."""
    waiting: int = 0
    """Requests that wait for a place in it."""
    kv_usage: float = 0.0
    """Share of the engine's pages that is taken, 0-1."""
    queue_limit: int = 0
    """So many may wait."""
    stalled: float = 0.0
    """Seconds since the engine last told anything while it had work."""
    leaving: str = ""
    """Why the donor takes nothing new (it drains, its owner paused it, its hours are over). Empty: it takes work."""
    facts: Mapping[str, Any] | None = None
    """What the engine says of its model, once it is loaded."""
    wants: Mapping[str, Any] | None = None
    """Of a host that leads a chain of stages which broke: see `shard_words.Wanted`. None: nothing."""

    def to_wire(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: Any) -> HostStatus:
        """The inverse of `to_wire`; fields that this version does not know are ignored. Raises ProtocolError."""
        try:
            known = {one.name: wire[one.name] for one in fields(cls) if one.name in wire}
            return cls(**{**known, "state": HostState(wire["state"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a host's status came that can't be read: {error!r}") from None
