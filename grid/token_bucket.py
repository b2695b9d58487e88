"""A rate limit: a bucket of tokens that fills up by time, from which every request takes one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """`capacity` requests at once, and `per_second` in the long run. No clock: `now` is an argument, in seconds."""

    capacity: float
    per_second: float
    tokens: float
    at: float
    """When `tokens` were counted."""

    @classmethod
    def per_minute(cls, requests: int, now: float) -> TokenBucket:
        """A full bucket that holds one minute's requests."""
        return cls(capacity=requests, per_second=requests / 60, tokens=requests, at=now)

    def take(self, now: float) -> float:
        """Take a token: 0.0. With none left nothing is taken, and the answer is in how many seconds there is one."""
        elapsed = max(0.0, now - self.at)
        self.tokens = min(self.capacity, self.tokens + elapsed * self.per_second)
        self.at = max(self.at, now)
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.per_second
