"""What is to be done so that what is there becomes what is wanted. Pure: facts and `now` in, actions out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .deployment import Deployment, Phase, Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long what may take. All in seconds."""

    start: float = 30.0
    """For a donor that was chosen to begin."""
    load: float = 900.0
    """For an engine to load its model."""
    silence: float = 10.0
    """A host that says nothing for so long is dead."""
    stall: float = 180.0
    """An engine that has work and tells nothing for so long is dead."""
    drain: float = 60.0
    """For the requests of a replica whose donor leaves; then they go on elsewhere."""
    cool: float = 2.0
    """After a replica was lost, its donor is avoided for so long; each further time twice as long."""
    cool_most: float = 300.0
    notice: float = 60.0
    """A stage is moved so long before its donor's window closes, and placed where it stays open for twice as long."""
    hop: float = 0.5
    """A stage that says nothing to its neighbour for so long is asked after, longer where it is known to be slow."""
    freeze: float = 3.0
    """A stage that leads, and says nothing on any way for so long, hangs; longer where it is known to be slow."""
    mend: float = 300.0
    """A chain of stages may be broken for so long until its requests go on elsewhere, or end."""
    steady: float = 60.0
    """A replica that was ready for so long before it was lost is a first loss again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Ask for a donor for one more replica."""

    excluded: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class Retire:
    """End a replica and clean up after it. What it still serves goes on elsewhere."""

    epoch: int
    why: str
    setback: bool = False
    """It failed: its donor is avoided for a while."""


Action = Place | Retire


@dataclass(frozen=True, slots=True)
class Setbacks:
    """Which donors lost or failed a replica lately, and how often loading failed in a row anywhere."""

    donors: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Donor id → setbacks in a row, and when the last one was."""
    failures: int = 0
    """Replicas in a row, wherever, that ended before they were ready."""
    failed_at: float = 0.0

    def after(self, replica: Replica, now: float, patience: Patience) -> Setbacks:
        """`replica` was lost or failed."""
        donors = dict(self.donors)
        served = replica.ready_at is not None
        if replica.donor_id:
            steady = replica.ready_at is not None and now - replica.ready_at >= patience.steady
            before = 0 if steady else donors.get(replica.donor_id, (0, 0.0))[0]
            donors[replica.donor_id] = (before + 1, now)
        return Setbacks(donors, self.failures + (not served), self.failed_at if served else now)

    def loaded(self) -> Setbacks:
        """A replica became ready: the model can be loaded."""
        return Setbacks(self.donors)

    def cooling(self, now: float, patience: Patience) -> frozenset[str]:
        """Donors that are avoided now."""
        return frozenset(donor for donor, (times, at) in self.donors.items() if now < at + _backoff(times, patience))

    def next_try(self, patience: Patience) -> float:
        """Not before this moment is another replica placed."""
        return self.failed_at + _backoff(self.failures, patience) if self.failures else float("-inf")


def _backoff(times: int, patience: Patience) -> float:
    return min(patience.cool_most, patience.cool * 2.0 ** min(times - 1, 30))


@dataclass(frozen=True, slots=True)
class Decision:
    """What is due now, and what was learned."""

    actions: tuple[Action, ...]
    """None when all is as wanted, or when only time can help."""
    setbacks: Setbacks


def reconcile(
    deployment: Deployment, replicas: Sequence[Replica], setbacks: Setbacks, now: float, patience: Patience
) -> Decision:
    """One look at what is there. Whoever acts on it gives the setbacks to the next look."""
    retired = {action.epoch: action for action in _broken(replicas, setbacks, now, patience)}
    setbacks = _learned(replicas, retired, setbacks, now, patience)
    alive = [one for one in replicas if one.epoch not in retired]
    staying = [one for one in alive if not one.leaving]
    for action in [*_surplus(deployment, staying), *_left(deployment, alive, now, patience)]:
        retired.setdefault(action.epoch, action)
    missing = deployment.replicas - len(staying)
    placing = any(not one.donor_id for one in staying)  # one at a time: the next must not come to the same donor
    actions: list[Action] = list(retired.values())
    if missing > 0 and not placing and now >= setbacks.next_try(patience):
        there = [one for one in alive if one.epoch not in retired]
        taken = frozenset(donor for one in there for donor in (one.donor_id, *one.others) if donor)
        why = f"{len(staying)} of {deployment.replicas} replicas are there"
        actions.append(Place(taken | setbacks.cooling(now, patience), why))
    return Decision(tuple(actions), setbacks)


def _learned(
    replicas: Sequence[Replica], retired: Mapping[int, Retire], setbacks: Setbacks, now: float, patience: Patience
) -> Setbacks:
    if setbacks.failures and any(one.phase is Phase.READY for one in replicas):
        setbacks = setbacks.loaded()
    for one in replicas:
        if one.epoch in retired and retired[one.epoch].setback:
            setbacks = setbacks.after(one, now, patience)
    return setbacks


def _broken(replicas: Iterable[Replica], setbacks: Setbacks, now: float, patience: Patience) -> Iterable[Retire]:
    cooling = setbacks.cooling(now, patience)
    held = {one.donor_id for one in replicas if one.donor_id and one.phase is not Phase.ENDED}
    for one in replicas:
        if one.phase is Phase.ENDED:
            yield Retire(one.epoch, one.why, setback=True)
        elif one.phase is Phase.PLACING and not one.donor_id and one.excluded - cooling - held:
            yield Retire(one.epoch, "donors that were avoided may be asked again")
        elif one.phase is Phase.LOADING and now - one.since > patience.load:
            yield Retire(one.epoch, f"the model was not loaded within {patience.load:g} s", setback=True)
        elif one.phase is Phase.READY and one.stalled > patience.stall:
            why = f"the engine told nothing for {one.stalled:.0f} s while it had work"
            yield Retire(one.epoch, why, setback=True)


def _surplus(deployment: Deployment, staying: Sequence[Replica]) -> Iterable[Retire]:
    """More than wanted: those go first that lose least."""
    order = list(Phase)
    worth = sorted(staying, key=lambda one: (order.index(one.phase), one.in_flight, one.epoch))
    for one in worth[: max(0, len(staying) - deployment.replicas)]:
        yield Retire(one.epoch, f"{deployment.replicas} replicas are wanted")


def _left(deployment: Deployment, alive: Sequence[Replica], now: float, patience: Patience) -> Iterable[Retire]:
    """Replicas on donors that want to leave: once others serve in their place, or when the donor has waited enough."""
    ready = sum(one.phase is Phase.READY and not one.leaving for one in alive)
    for one in alive:
        if not one.leaving:
            continue
        waited = now - (now if one.leaving_since is None else one.leaving_since)
        useless = one.phase is not Phase.READY or not deployment.replicas
        if useless or waited > patience.drain or (ready >= deployment.replicas and not one.in_flight):
            yield Retire(one.epoch, f"its donor leaves: {one.leaving}")
