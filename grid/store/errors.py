"""What the store refuses, and what it can't do now."""

from __future__ import annotations


class StoreUnavailable(Exception):
    """The database is down, locked or not at this version's schema: nothing is known to be done. Try again later."""


class IdempotencyConflict(Exception):
    """The idempotency key was used with another body."""


class QueueFull(Exception):
    """As many jobs wait as may."""
