"""What has been away for so long that it will not come back. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet


class Absences:
    """Names that were absent at every look for some time: one look may be wrong, as at a folder that is not mounted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[str, float] = {}

    def for_long(self, absent: AbstractSet[str], now: float) -> set[str]:
        """Those of `absent` that have been absent, at all looks, for the time. `now`: seconds of a monotonic clock."""
        self._since = {name: self._since.get(name, now) for name in absent}
        return {name for name, since in self._since.items() if now - since >= self._seconds}
