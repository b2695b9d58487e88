"""What to do about a unit after each thing that can happen to it: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .cutting import Span
from .search import Search

DEATHS_BEFORE_SEARCH = 2
"""Workers that may die under a unit before its rows are suspected."""
FAILURES_ALLOWED = 3
"""Attempts that may end with an error (no space, no access …) before the unit is given up."""
SEARCHES_ALLOWED = 3
"""Searches that may end without a guilty row."""
KILLERS_ALLOWED = 16
"""Rows of one unit that may be set aside because they kill; more means that something else is wrong."""
KILLED = "killed_worker: the process that worked on this row died, each time"


@dataclass(frozen=True, slots=True)
class Attempts:
    """The history of one unit, as far as it decides what comes next."""

    span: Span
    deaths: int = 0
    """Workers that died under it since the last search."""
    failures: int = 0
    searches: int = 0
    """Searches that found nothing."""
    search: Search | None = None
    killed: Mapping[int, str] = field(default_factory=dict)
    """Rows set aside → what their error cell will say."""
    away_from: frozenset[str] = frozenset()
    """Addresses of workers on which it failed or died last."""
    given_up: str | None = None
    """Why it failed for good."""

    def after_death(self, worker: str = "") -> Attempts:
        """A worker died while it ran this unit, or a probe of it."""
        state = replace(self, away_from=frozenset([worker]) - {""})
        if self.search is not None:
            return state._searched(died=True)
        state = replace(state, deaths=self.deaths + 1)
        if state.deaths < DEATHS_BEFORE_SEARCH or self.span.rows == 0:
            return state
        return replace(state, deaths=0, search=Search(self.span.start, self.span.stop))

    def after_probe(self) -> Attempts:
        """A probe came back alive."""
        return self._searched(died=False)

    def _searched(self, *, died: bool) -> Attempts:
        assert self.search is not None
        search = self.search.after(died=died)
        if search is None:
            state = replace(self, search=None, searches=self.searches + 1)
            if state.searches < SEARCHES_ALLOWED:
                return state
            why = "workers die under it again and again, but no single row of it kills one: is there enough memory?"
            return replace(state, given_up=why)
        if search.found is None:
            return replace(self, search=search)
        killed = {**self.killed, search.found: KILLED}
        if len(killed) > KILLERS_ALLOWED:
            return replace(self, search=None, given_up=f"more than {KILLERS_ALLOWED} of its rows kill the worker")
        return replace(self, search=None, killed=killed)

    def after_failure(self, why: str, worker: str = "", *, final: bool) -> Attempts:
        """The unit (or a probe of it) ended with an error. `final`: no other worker would do better."""
        failures = self.failures + 1
        gone = why if final or failures >= FAILURES_ALLOWED else None
        return replace(self, failures=failures, given_up=gone, away_from=frozenset([worker]) - {""})
