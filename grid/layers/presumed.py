"""How fast a donor is presumed to compute layers before anybody has measured it: by its GPU's memory, or its cores.

Decoding reads every weight once for each step, so what a device reads in a second is what it computes in a second.
"""

from __future__ import annotations

_GB_S = (
    ("b200", 8000.0),
    ("h200", 4800.0),
    ("h100", 3350.0),
    ("a100", 1555.0),
    ("mi300", 5300.0),
    ("l40", 864.0),
    ("l4", 300.0),
    ("a10", 600.0),
    ("a6000", 768.0),
    ("v100", 900.0),
    ("t4", 320.0),
    ("5090", 1792.0),
    ("4090", 1008.0),
    ("4080", 717.0),
    ("4070", 504.0),
    ("3090", 936.0),
    ("3080", 760.0),
    ("3070", 448.0),
    ("3060", 360.0),
    ("2080", 448.0),
)
"""A part of the model's name → bytes a second of its memory, in 10^9, as its maker says; the first that fits counts."""
_SOME_GPU = 400.0
_CORE = 5.0
"""Of one core, in GB/s."""


def presumed_gb_s(gpu_model: str | None, threads: int) -> float:
    """What a donor reads of its memory in a second, in GB. `gpu_model` None: it computes on so many threads."""
    if gpu_model is None:
        return _CORE * max(1, threads)
    name = gpu_model.lower()
    return next((speed for part, speed in _GB_S if part in name), _SOME_GPU)
