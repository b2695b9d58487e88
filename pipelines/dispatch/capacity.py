"""How many jobs of which types the grid can start now: pure, from the scheduler's document of the grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...grid.acceptance import suits
from ...grid.donors import Donor
from ...grid.jobs import Ask

_OPEN = frozenset({"online", "busy"})
"""States in which a worker takes work, now or as soon as it has finished something."""


@dataclass(frozen=True, slots=True)
class Group:
    """Workers that are alike for a claim."""

    region: str
    types: frozenset[str]
    room: int
    """Jobs that they can start now."""


def open_workers(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of the workers that take work."""
    return [row for row in state["workers"] if row["state"] in _OPEN]


def groups(state: Mapping[str, Any], known: Iterable[str], in_flight: Mapping[str, int]) -> list[Group]:
    """Where jobs can be started now, the widest group first; groups without room are left out.

    `known`: job types that can be dispatched. `in_flight`: job type → claims of ours that have not ended; what of them
    the scheduler doesn't have yet will take room soon.
    """
    names = frozenset(known)
    room: Counter[tuple[str, frozenset[str]]] = Counter()
    for row in open_workers(state):
        types = names & frozenset(row["supported_types"])
        free = row["max_concurrent_jobs"] - row["running"] - row["waiting"]
        if types and free > 0:
            room[row["region"], types] += free
    for type_, count in _promised(state, in_flight).items():
        _take(room, type_, count)
    found = [Group(region, types, free) for (region, types), free in room.items() if free > 0]
    return sorted(found, key=lambda group: (-group.room, group.region, sorted(group.types)))


def _promised(state: Mapping[str, Any], in_flight: Mapping[str, int]) -> Mapping[str, int]:
    """Job type → jobs that wait in Dask, and those that Dask has not heard of."""
    promised = Counter(state["waiting_by_type"])
    for type_, count in in_flight.items():
        unseen = count - state["running_by_type"].get(type_, 0) - promised[type_]
        promised[type_] += max(0, unseen)
    return promised


def _take(room: Counter[tuple[str, frozenset[str]]], type_: str, count: int) -> None:
    """Take room for so many jobs of a type, where there is most of it."""
    while count > 0:
        fitting = [group for group, free in room.items() if free > 0 and type_ in group[1]]
        if not fitting:
            return
        widest = max(fitting, key=lambda group: (room[group], group[0]))
        taken = min(count, room[widest])
        room[widest] -= taken
        count -= taken


def welcome(ask: Ask, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any of these workers could take the work: what placement would refuse everywhere is not sent to it."""
    return any(suits(ask, _donor(row)) for row in rows)


def without_dead_ends(excluded: frozenset[str], ask: Ask, rows: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The workers to keep a job from: those on which it failed, unless nobody else is there who could take it."""
    return excluded if welcome(_excluding(ask, excluded), rows) else frozenset()


def _excluding(ask: Ask, excluded: frozenset[str]) -> Ask:
    return Ask.from_annotation(ask.to_annotation() | {"excluded": sorted(excluded)})


def _donor(row: Mapping[str, Any]) -> Donor:
    return Donor(
        id=row["id"],
        region=row["region"],
        supported_types=frozenset(row["supported_types"]),
        models=frozenset(row.get("models", ())),
        gpu_memory_gb=row["gpu_memory_gb"],
    )
