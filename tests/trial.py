"""A job type of the tests, `trial`: quick, slow, failing, deadly. Installed as a stranger's package would be."""

from __future__ import annotations

import ctypes
import shutil
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from idlegrid.grid.config import kinds
from idlegrid.grid.job_types import ALONE, RunContext, register
from idlegrid.grid.jobs import Ask

NAME = "trial"
STEP = 0.01


def install(folder: Path) -> Path:
    """Make `folder` a place of installed packages that has this job type: for `sys.path` or PYTHONPATH."""
    facts = folder / "trial-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: trial\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[idlegrid.job_types]\n{NAME} = trial:JOB_TYPE\n")
    shutil.copy(__file__, folder / "trial.py")
    return folder


def look_again() -> None:
    """Forget which job types are installed: `sys.path` has changed."""
    register.cache_clear()
    kinds._job_types.cache_clear()


class TrialParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: int = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    then: Literal["give", "raise", "refuse", "segfault", "large", "salt"] = "give"
    deaf: bool = False
    """Does not hear that it is to stop."""
    words: int = 0
    """Pieces of text to tell."""
    gpu_memory_gb: float = 0.0


class TrialResult(BaseModel):
    value: int
    padding: str = ""


class TrialJobType:
    """Waits, then does what it was told."""

    name = NAME
    Params = TrialParams
    Result = TrialResult

    def __init__(self) -> None:
        self.started = threading.Event()
        """Set when a run begins."""

    def ask(self, params: TrialParams) -> Ask:
        return Ask(type=self.name, gpu_memory_gb=params.gpu_memory_gb)

    def run(self, params: TrialParams, context: RunContext = ALONE) -> TrialResult:
        self.started.set()
        for number in range(params.words):
            context.tokens(f"word{number} ")
        ends = time.monotonic() + params.seconds
        while time.monotonic() < ends:
            if not params.deaf:
                context.check()
            time.sleep(STEP)
        return self._end(params) if params.then != "salt" else TrialResult(value=params.value, padding=context.salt)

    def _end(self, params: TrialParams) -> TrialResult:
        match params.then:
            case "raise":
                raise RuntimeError("as told")
            case "refuse":
                raise ValueError("nobody can do that")
            case "segfault":
                ctypes.string_at(0)
            case "large":
                return TrialResult(value=params.value, padding="x" * 3_000_000)
        return TrialResult(value=params.value)

    def __reduce__(self) -> Any:
        return TrialJobType, ()


JOB_TYPE = TrialJobType()
