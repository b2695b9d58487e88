"""May this donor take this work now? The owner's limits and the hard exclusions, with the reason for each no."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from .donors import Donor, Limits, Load
from .jobs import Ask
from .verdicts import ACCEPTED, Reason, Verdict

_DAY = timedelta(days=1)


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
        return Verdict(Reason.OUTSIDE_WORKING_HOURS, _describe_hours(limits, now), _free_by_time(limits, load, now))
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


def _refuse_memory(ask: Ask, donor: Donor, load: Load) -> Verdict:
    share, total, used = donor.limits.max_gpu_memory_percent, donor.gpu_memory_gb, load.gpu_memory_used_gb
    return Verdict(
        Reason.GPU_MEMORY, f"{used:g} of {total:g} GB used and {ask.gpu_memory_gb:g} GB asked; allows {share:g} %"
    )


def is_open(limits: Limits, now: datetime) -> bool:
    """Whether `now` (aware) lies in the working hours, by the wall clock of the donor's own time zone."""
    start, end = limits.working_hours_start, limits.working_hours_end
    if start is None or end is None or start == end:
        return True
    hour = now.astimezone(ZoneInfo(limits.time_zone)).hour
    return start <= hour < end if start < end else hour >= start or hour < end


def opens_at(limits: Limits, now: datetime) -> datetime:
    """The first moment (UTC) from `now` on that lies in the working hours: `now` itself when they are running."""
    return now.astimezone(UTC) if is_open(limits, now) else _next_turn(limits, now, opened=True)


def closes_at(limits: Limits, now: datetime) -> datetime | None:
    """The first moment (UTC) from `now` on outside the working hours: `now` itself when outside. None: never."""
    start, end = limits.working_hours_start, limits.working_hours_end
    if start is None or start == end:
        return None
    return _next_turn(limits, now, opened=False) if is_open(limits, now) else now.astimezone(UTC)


def _next_turn(limits: Limits, now: datetime, *, opened: bool) -> datetime:
    """The first moment after `now` at which the hours open (or close), which they haven't at `now`.

    The hours turn only where the wall clock shows one of the two full hours or is put forward or back over one of them.
    """
    zone = ZoneInfo(limits.time_zone)
    day = now.astimezone(zone).date() - _DAY  # a clock put back over midnight shows yesterday again
    while True:
        turns = [
            moment
            for hour in (limits.working_hours_start, limits.working_hours_end)
            for moment in _moments_of(day, hour or 0, zone)
            if moment > now and is_open(limits, moment) is opened
        ]
        if turns:
            return min(turns)
        day += _DAY


def _moments_of(day: date, hour: int, zone: ZoneInfo) -> list[datetime]:
    """The moments (UTC) at which the wall clock may reach or pass `hour` on `day`.

    One on most days. When the clock changes over that hour: both readings, and the change itself, which no wall time
    names.
    """
    wall = datetime.combine(day, time(hour), tzinfo=zone)
    readings = sorted({wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1)})
    return readings + [_clock_change(before, after, zone) for before, after in pairwise(readings)]


def _clock_change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The moment in (before, after] from which the zone's offset is that of `after`, to the second."""
    offset = after.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return before + timedelta(seconds=high)


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


def _describe_hours(limits: Limits, now: datetime) -> str:
    local = now.astimezone(ZoneInfo(limits.time_zone))
    hours = f"{limits.working_hours_start}-{limits.working_hours_end}"
    return f"works {hours} {limits.time_zone}, it is {local:%H:%M} there"
