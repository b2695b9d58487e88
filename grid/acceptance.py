"""May this donor take this work now? The owner's limits and the hard exclusions, with the reason for each no."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from .donors import Donor, Limits, Load
from .hours import closes_at, describe, has_hours, is_open, open_for, opens_at, opens_for
from .jobs import Ask
from .verdicts import ACCEPTED, Reason, Verdict

__all__ = [
    "admits",
    "closes_at",
    "decide",
    "finishes",
    "fits",
    "free_memory_gb",
    "has_hours",
    "hourly_capped",
    "is_open",
    "moment_of",
    "opens_at",
    "room",
    "slots_taken",
    "standing",
    "suits",
]


def decide(ask: Ask, donor: Donor, load: Load, now: datetime, draw: float) -> Verdict:
    """Whether `donor` may start `ask` at `now` (aware); `draw` in [0, 1) is this ask's lot at this donor.

    What can never change for this ask comes before what people, time and load change: a `retry_at` is no false hope.
    Raises ValueError when `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"now is {now!r}; it needs a time zone: datetime.now(UTC)")
    verdict = suits(ask, donor)
    if verdict:
        verdict = standing(donor, load, now)
    if verdict and not fits(ask, donor, load):
        verdict = _refuse_memory(ask, donor, load)
    if ask.seconds and verdict and not finishes(ask, donor, now):
        verdict = _refuse_time(ask, donor, load, now)
    if verdict and draw >= donor.limits.acceptance_rate:
        rate = donor.limits.acceptance_rate
        verdict = Verdict(Reason.ACCEPTANCE_RATE, f"takes {rate:.0%} of the offered work and drew {draw:.2f}")
    return verdict


def admits(ask: Ask, donor: Donor, load: Load) -> bool:
    """Whether `donor` would take `ask` if it took any work: the part of `decide` that is the same for every ask that
    says the same, until the donor's facts, its models or its GPU's memory change.
    """
    return bool(suits(ask, donor)) and fits(ask, donor, load)


def room(donor: Donor, load: Load, now: datetime) -> int:
    """How many jobs `donor` may start at `now` (aware) one after the other, if each of them is admitted. 0: none."""
    if not standing(donor, load, now):
        return 0
    limits = donor.limits
    slots = limits.max_concurrent_jobs - load.running
    if not limits.max_jobs_per_hour:
        return slots
    return min(slots, max(1, limits.max_jobs_per_hour - load.started_last_hour))


def suits(ask: Ask, donor: Donor) -> Verdict:
    """Whether `donor` could ever take `ask`, whatever it is doing now: type, model, excluded, region.

    An ask that names no model means the donor's own default of that type, so a donor that is restricted to some models
    takes it. Without a preferred region there is none to stay in.
    """
    if ask.type not in donor.supported_types:
        offers = ", ".join(sorted(donor.supported_types)) or "nothing"
        return Verdict(Reason.TYPE_NOT_SUPPORTED, f"runs {offers}; the work is {ask.type}")
    if donor.models and ask.model is not None and ask.model not in donor.models:
        return Verdict(Reason.MODEL_NOT_SUPPORTED, f"serves only {', '.join(sorted(donor.models))}; not {ask.model}")
    if donor.id in ask.excluded:
        return Verdict(Reason.EXCLUDED, "this work already failed here")
    if not ask.allow_cross_region and ask.region is not None and ask.region != donor.region:
        return Verdict(Reason.WRONG_REGION, f"is in {donor.region}; the work must stay in {ask.region}")
    return ACCEPTED


def standing(donor: Donor, load: Load, now: datetime) -> Verdict:
    """Whether `donor` takes any work at all at `now`: draining, paused, working hours, hourly cap, concurrency."""
    limits = donor.limits
    if load.draining:
        return Verdict(Reason.DRAINING, "finishes what runs and leaves")
    if load.paused:
        return Verdict(Reason.PAUSED, "paused by its owner")
    if not is_open(limits, now):
        return Verdict(Reason.OUTSIDE_WORKING_HOURS, describe(limits, now), _free_by_time(limits, load, now))
    if hourly_capped(limits, load, now):
        detail = f"started {load.started_last_hour} jobs within the hour, allows {limits.max_jobs_per_hour}"
        return Verdict(Reason.HOURLY_CAP, detail, _free_by_time(limits, load, now))
    if slots_taken(limits, load):
        return Verdict(Reason.CONCURRENCY, f"runs {load.running} jobs, allows {limits.max_concurrent_jobs}")
    return ACCEPTED


def slots_taken(limits: Limits, load: Load) -> bool:
    """Whether as many jobs run as may run at the same time."""
    return load.running >= limits.max_concurrent_jobs


def hourly_capped(limits: Limits, load: Load, now: datetime) -> bool:
    """Whether as many jobs started within the hour as may; a start that has left the hour by `now` doesn't count."""
    surplus = load.started_last_hour - limits.max_jobs_per_hour
    if not limits.max_jobs_per_hour or surplus < 0:
        return False
    frees_at = load.hourly_slot_frees_at
    return surplus > 0 or frees_at is None or now.timestamp() < frees_at


def free_memory_gb(donor: Donor, load: Load) -> float:
    """GPU memory that new work may still fill, in GB; negative when over the owner's share; infinite without a GPU.

    A donor without a GPU says by its `supported_types` what it runs in main memory, so GPU memory doesn't limit it.
    """
    if donor.gpu_memory_gb <= 0:
        return math.inf
    return donor.gpu_memory_gb * donor.limits.max_gpu_memory_percent / 100 - load.gpu_memory_used_gb


def fits(ask: Ask, donor: Donor, load: Load) -> bool:
    """Whether the GPU memory that `ask` needs is free. A model that is already resident has taken its memory before."""
    if ask.gpu_memory_gb <= 0 or ask.model in load.loaded:
        return True
    return ask.gpu_memory_gb <= free_memory_gb(donor, load)


def finishes(ask: Ask, donor: Donor, now: datetime) -> bool:
    """Whether `ask`, begun at `now`, is expected to end before the donor's window closes. Of unknown length: yes."""
    return not ask.seconds or open_for(donor.limits, ask.seconds * donor.pace, now)


def _refuse_time(ask: Ask, donor: Donor, load: Load, now: datetime) -> Verdict:
    """The window closes too soon; if none that comes is longer, time is no help."""
    seconds = ask.seconds * donor.pace
    closes = closes_at(donor.limits, now) or now
    detail = f"closes in {(closes - now).total_seconds():.0f} s, such work takes about {seconds:.3g} s here"
    return Verdict(Reason.WINDOW_CLOSES, detail, opens_for(donor.limits, seconds, closes))


def _refuse_memory(ask: Ask, donor: Donor, load: Load) -> Verdict:
    share, total, used = donor.limits.max_gpu_memory_percent, donor.gpu_memory_gb, load.gpu_memory_used_gb
    return Verdict(
        Reason.GPU_MEMORY, f"{used:g} of {total:g} GB used and {ask.gpu_memory_gb:g} GB asked; allows {share:g} %"
    )


def _free_by_time(limits: Limits, load: Load, now: datetime) -> datetime | None:
    """The first moment at which hours and hourly cap both allow work if nothing else happens. None: not known."""
    moment = now
    if hourly_capped(limits, load, now):
        if load.hourly_slot_frees_at is None or load.hourly_slot_frees_at <= now.timestamp():
            return None
        moment = moment_of(load.hourly_slot_frees_at)
    return opens_at(limits, moment)


def moment_of(unix_seconds: float) -> datetime:
    """The first representable moment (UTC) at or after `unix_seconds`: who waits for it never wakes too early."""
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    return moment if moment.timestamp() >= unix_seconds else moment + datetime.resolution
