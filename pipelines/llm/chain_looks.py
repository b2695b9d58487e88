"""Asking the stages of a chain how their donors are, beside whatever else is done: one that hangs holds nobody up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from .live_stage import LiveStage, StageLost


class Looks:
    """Questions that are under way, one a stage. Belongs to one event loop."""

    def __init__(self, told: Callable[[], None]) -> None:
        """`told` is called when an answer has come, or will not come any more."""
        self._told = told
        self._asked: dict[LiveStage, asyncio.Task[None]] = {}
        self._since: dict[LiveStage, float] = {}

    def __bool__(self) -> bool:
        """Whether an answer is waited for, or has not been taken."""
        return bool(self._asked)

    def ask(self, stages: Iterable[LiveStage], within: float) -> None:
        """Ask those that have no question to answer already; they have `within` seconds."""
        for stage in stages:
            if stage not in self._asked:
                self._since[stage] = time.monotonic()
                self._asked[stage] = asyncio.create_task(stage.look(within))
                self._asked[stage].add_done_callback(lambda _: self._told())

    def waited(self, stage: LiveStage) -> float:
        """Seconds that its answer has been waited for. 0: none is."""
        task = self._asked.get(stage)
        return 0.0 if task is None or task.done() else time.monotonic() - self._since[stage]

    def lost(self) -> Mapping[LiveStage, str]:
        """Who did not answer in time, or is gone, since this was asked last, and why."""
        done = {stage: task for stage, task in self._asked.items() if task.done()}
        for stage in done:
            del self._asked[stage], self._since[stage]
        ends = {stage: task.exception() for stage, task in done.items()}
        return {stage: str(end) for stage, end in ends.items() if isinstance(end, StageLost)}

    async def close(self) -> None:
        """Wait for no answer any more."""
        tasks = list(self._asked.values())
        self._asked.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
