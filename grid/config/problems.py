"""What can be wrong with a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in one line."""

    key: str
    """Dotted key, variable or file that it is about."""
    origin: str
    """Where the value stands, e.g. ``config.yaml (/etc/idlegrid/config.yaml:12)``."""
    message: str
    """What is wrong, and what is allowed."""

    def __str__(self) -> str:
        return f"{self.key}: {self.message} [{self.origin}]" if self.origin else f"{self.key}: {self.message}"


class ConfigError(ValueError):
    """The configuration cannot be used. The message has one line for each problem; all are found in one go."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
