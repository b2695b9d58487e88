"""A gain must last before anything moves for it: one look at a machine that others use as well is not enough."""

from __future__ import annotations

from dataclasses import dataclass, replace

LOOKS = 2


@dataclass(frozen=True, slots=True)
class Persistence:
    """How often in a row something better was found."""

    looks: int = LOOKS
    """So often it must have been."""
    seen: int = 0

    def after(self, better: bool) -> Persistence:
        """Another look was taken."""
        return replace(self, seen=self.seen + 1 if better else 0)

    @property
    def lasts(self) -> bool:
        """It is time to move."""
        return self.seen >= self.looks
