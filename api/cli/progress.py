"""How far a bulk job is, on standard error: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from .output import stderr, tell

if TYPE_CHECKING:
    from ...pipelines.bulk import Progress as Look

EVERY = 10.0
"""Seconds between two lines in a log."""
_SHOWN = 4
"""Workers whose steps are shown."""
_COLUMNS = (
    TextColumn("[bold]{task.description}"),
    BarColumn(),
    TextColumn("{task.percentage:>3.0f}%"),
    TextColumn("{task.fields[numbers]}"),
)


@contextmanager
def shown(doing: str = "embedding") -> Iterator[Callable[[Look], None]]:
    """A listener for a job's progress; `doing` is what it does."""
    notices = Notices()
    if not sys.stderr.isatty():
        yield _lines(notices)
        return
    with Progress(*_COLUMNS, console=stderr()) as bar:
        task = bar.add_task("planning", total=None, numbers="")

        def draw(look: Look) -> None:
            if notices.new(look.notice):
                bar.console.print(look.notice, highlight=False, soft_wrap=True, markup=False)
            known = look.rows_total > 0 and look.units_total > 0
            bar.update(
                task,
                description=doing if known else "planning",
                total=look.rows_total if known else None,
                completed=look.rows,
                numbers=numbers(look) if known else "",
            )

        yield draw


def _lines(notices: Notices) -> Callable[[Look], None]:
    last = time.monotonic()

    def listen(look: Look) -> None:
        nonlocal last
        if notices.new(look.notice):
            tell(look.notice)
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            tell(numbers(look))

    return listen


class Notices:
    """Which notices are news: one that differs from the last only in its numbers is not."""

    def __init__(self) -> None:
        self._last = ""

    def new(self, notice: str) -> bool:
        shape = re.sub(r"\d+", "#", notice)
        if not notice or shape == self._last:
            return False
        self._last = shape
        return True


def pace(rows_per_second: float) -> str:
    """E.g. ``1,840 rows/s``, and for what is slow ``13.8 rows/min``."""
    return f"{60 * rows_per_second:,.1f} rows/min" if 0 < rows_per_second < 1 else f"{rows_per_second:,.0f} rows/s"


def numbers(look: Look) -> str:
    """E.g. ``3,072/12,000 rows · 1,840 rows/s · 0 errors · 4 workers · 0:05 left``."""
    left = "" if look.eta_seconds is None else f" · {clock(look.eta_seconds)} left"
    speed = look.rows_per_second
    done = f"{look.rows:,}/{counted(look.rows_total, 'row')}{_under_way(look)}"
    done += f" · {pace(speed)}" if speed or not look.under_way else ""
    return f"{done} · {counted(look.errors, 'error')} · {counted(look.workers, 'worker')}{left}"


def _under_way(look: Look) -> str:
    """E.g. `` (1 more drawn, step 12/50)``: rows of parts that are not finished, and where the workers are."""
    if not look.under_way:
        return ""
    rows = sum(one.rows for one in look.under_way)
    steps = ", ".join(f"{one.step}/{one.steps}" for one in look.under_way[:_SHOWN])
    more = ", …" if len(look.under_way) > _SHOWN else ""
    return f" ({f'{rows:,} more, ' if rows else ''}step {steps}{more})"


def counted(number: int, noun: str) -> str:
    """E.g. ``1 part``, ``12,000 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours when there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
