"""How long one placement decision takes: the best donor of 10 to 10,000, most of which can't take the work.

One JSON object on the last line: `rank_us`, the median decision in µs by number of donors; `rank_p99_us`; and
`load_us`, what it costs to tell the index of one donor's new load.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from idlegrid.grid.donors import Donor, Limits, Load
from idlegrid.grid.jobs import Ask
from idlegrid.grid.placement import Donors, rank
from idlegrid.grid.regions import REGIONS

SIZES = (10, 100, 1_000, 10_000)
TYPES = ("llm", "embedding", "whisper", "image_gen", "vision")
MODELS = tuple(f"model-{number}" for number in range(20))
ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York")
NOW = datetime(2026, 3, 28, 22, 30, tzinfo=UTC)


def a_donor(choose: random.Random, number: int) -> Donor:
    """A donor with one to three types; half of them keep hours, a third serve only some models."""
    start, end = (choose.randrange(24), choose.randrange(24)) if choose.random() < 0.5 else (None, None)
    return Donor(
        id=f"donor-{number:05}",
        region=choose.choice(tuple(REGIONS)),
        gpu_memory_gb=choose.choice((0.0, 8.0, 12.0, 24.0, 48.0, 80.0)),
        supported_types=frozenset(choose.sample(TYPES, choose.randint(1, 3))),
        models=frozenset(choose.sample(MODELS, 3)) if choose.random() < 0.33 else frozenset(),
        limits=Limits(
            acceptance_rate=choose.choice((1.0, 1.0, 0.5)),
            max_concurrent_jobs=choose.choice((1, 4)),
            max_jobs_per_hour=choose.choice((0, 0, 20)),
            working_hours_start=start,
            working_hours_end=end,
            time_zone=choose.choice(ZONES),
        ),
        reliability=choose.random(),
        avg_latency_ms=choose.uniform(10, 500),
    )


def a_load(choose: random.Random) -> Load:
    """What it is doing: most are full, busy, capped, paused or draining."""
    return Load(
        running=choose.choice((0, 1, 1, 4)),
        started_last_hour=choose.choice((0, 20)),
        hourly_slot_frees_at=NOW.timestamp() + 1000,
        gpu_memory_used_gb=choose.choice((0.0, 6.0)),
        loaded=frozenset(choose.sample(MODELS, choose.randint(0, 3))),
        paused=choose.random() < 0.2,
        draining=choose.random() < 0.2,
    )


def an_ask(choose: random.Random) -> Ask:
    """Any type and model, from anywhere; some must stay in their region, some need much memory."""
    return Ask(
        type=choose.choice(TYPES),
        model=choose.choice((None, *MODELS)),
        region=choose.choice(tuple(REGIONS)),
        allow_cross_region=choose.random() < 0.8,
        gpu_memory_gb=choose.choice((0.0, 10.0, 70.0)),
    )


def rank_us(size: int, *, decisions: int = 1000, seed: int = 0) -> list[float]:
    """Time of each of so many decisions over `size` donors, in µs."""
    choose = random.Random(seed)
    donors = Donors((a_donor(choose, number), a_load(choose)) for number in range(size))
    asks = [an_ask(choose) for _ in range(decisions)]
    lots = {donor.id: choose.random() for donor, _ in donors}
    rank(asks[0], donors, NOW, lots.__getitem__, limit=1)
    return [_timed(lambda ask=ask: rank(ask, donors, NOW, lots.__getitem__, limit=1)) for ask in asks]


def load_us(size: int, *, updates: int = 1000, seed: int = 0) -> list[float]:
    """Time of each of so many new loads, the re-indexing included, in µs."""
    choose = random.Random(seed)
    donors = Donors((a_donor(choose, number), Load()) for number in range(size))
    donors.settle(NOW)
    news = [(f"donor-{choose.randrange(size):05}", Load(running=choose.choice((0, 1, 4)))) for _ in range(updates)]
    return [_timed(lambda new=new: (donors.load(*new), donors.settle(NOW))) for new in news]


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e6


def measure(sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """All figures, by number of donors."""
    decisions = {size: rank_us(size) for size in sizes}
    return {
        "rank_us": {str(size): round(statistics.median(times), 1) for size, times in decisions.items()},
        "rank_p99_us": {
            str(size): round(statistics.quantiles(times, n=100)[98], 1) for size, times in decisions.items()
        },
        "load_us": {str(size): round(statistics.median(load_us(size)), 1) for size in sizes},
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
