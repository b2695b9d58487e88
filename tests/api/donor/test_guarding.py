"""The guard's loop: it says at once what it saw, and a sensor that fails stops no work."""

from __future__ import annotations

import asyncio

from idlegrid.api.donor.guarding import Guarding
from idlegrid.grid.donor_guard import Act, GpuProgram, PauseReason, Readings
from idlegrid.grid.donors import Limits

LIMITS = Limits(pause_on_battery=True, pause_for_other_gpu_programs=True, max_gpu_temperature=80)
DEADLINE = 60.0


class Told:
    """Sensors that a test speaks for."""

    def __init__(self):
        self.readings = Readings()
        self.broken = False

    def read(self):
        if self.broken:
            raise OSError("the driver is gone")
        return self.readings


def guarding(told, **how):
    clock = iter(range(10_000))
    changes = []
    guard = Guarding(told, lambda: LIMITS, lambda: changes.append(guard.verdict.act), clock=lambda: next(clock), **how)
    return guard, changes


async def test_it_says_what_it_sees_when_it_sees_it():
    told = Told()
    guard, changes = guarding(told)
    await guard.look()
    told.readings = Readings(programs=(GpuProgram(7, "game", 3.0, computes=False),))
    await guard.look()
    assert (changes, guard.blocked, guard.code) == ([Act.FREE], "game (3.0 GB) uses the GPU", PauseReason.PROGRAM)
    assert guard.held is None
    told.readings = Readings(gpu_temperature=81)
    for _ in range(62):
        await guard.look()
    assert (changes, guard.blocked) == ([Act.FREE, Act.HOLD], None)
    assert guard.held.startswith("the GPU has 81 °C")


async def test_a_sensor_that_fails_stops_no_work_and_is_told():
    told = Told()
    told.broken = True
    guard, changes = guarding(told)
    assert await guard.look()
    assert (changes, guard.readings.unknown) == ([], ("the sensors failed: OSError the driver is gone",))


async def test_it_goes_on_looking():
    told = Told()
    seen = asyncio.Event()
    guard = Guarding(told, lambda: LIMITS, seen.set)
    running = asyncio.create_task(guard.run())
    await asyncio.sleep(0)
    told.readings = Readings(on_battery=True)
    await asyncio.wait_for(seen.wait(), DEADLINE)
    running.cancel()
    assert guard.blocked == "it runs on battery"


def test_the_gpu_for_the_status():
    guard, _ = guarding(Told())
    assert guard.gpu_now("A100") is None
    guard.readings = Readings(gpu_memory_gb=40.0, gpu_memory_used_gb=3.0, gpu_temperature=50)
    now = guard.gpu_now("A100")
    assert (now.model, now.memory_total_gb, now.memory_used_gb, now.temperature_celsius) == ("A100", 40.0, 3.0, 50)
    assert guard.gpu_now(None) is None
