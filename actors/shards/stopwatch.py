"""What a stage's computing takes: on a CPU by the clock, on CUDA by events of the device, which nobody waits for."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Started and stopped around one step after the other, by one thread."""

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = _event(), _event()
        self._since = self._until = 0.0

    def start(self) -> None:
        """The computing begins."""
        if self._events is None:
            self._since = time.perf_counter()
        else:
            self._events[0].record()

    def stop(self) -> None:
        """It ends here; on CUDA, when the device comes to it."""
        if self._events is None:
            self._until = time.perf_counter()
        else:
            self._events[1].record()

    @property
    def seconds(self) -> float:
        """Between the two. On CUDA to be asked when what was computed has been copied to the host: else it waits."""
        if self._events is None:
            return self._until - self._since
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1000


def _event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event
