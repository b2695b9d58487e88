"""A verdict: may this donor take this work, and if not, why not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Reason(StrEnum):
    """Why a donor may or may not take a piece of work. The value is what logs, metrics and answers show."""

    ACCEPTED = "accepted"
    NO_FACTS = "no_facts"
    """The worker never said what it is (it runs without our plugin), so nothing is known that would allow it."""
    TYPE_NOT_SUPPORTED = "type_not_supported"
    MODEL_NOT_SUPPORTED = "model_not_supported"
    EXCLUDED = "excluded"
    """The work already failed on this donor."""
    WRONG_REGION = "wrong_region"
    """The work must stay in its region and the donor is in another one."""
    DRAINING = "draining"
    PAUSED = "paused"
    OUTSIDE_WORKING_HOURS = "outside_working_hours"
    WINDOW_CLOSES = "window_closes"
    """Such work usually takes longer than what is left of the donor's working hours."""
    HOURLY_CAP = "hourly_cap"
    CONCURRENCY = "concurrency"
    GPU_MEMORY = "gpu_memory"
    ACCEPTANCE_RATE = "acceptance_rate"
    """The donor takes only a share of the work, and this draw fell outside it."""
    POLICY_ERROR = "policy_error"
    """The rule itself failed: it fails closed, nobody gets the work, and the log has the traceback."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a rule. Truthy when the donor may take the work."""

    reason: Reason
    detail: str = ""
    """One human sentence with the values that decided, e.g. ``works 22-6 Europe/Berlin, it is 14:05 there``."""
    retry_at: datetime | None = None
    """The moment (UTC) at which the answer may change by itself, if only time stands in the way."""

    def __bool__(self) -> bool:
        return self.reason is Reason.ACCEPTED


ACCEPTED = Verdict(Reason.ACCEPTED)
