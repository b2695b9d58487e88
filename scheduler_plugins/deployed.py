"""Which language models are deployed and who holds which layers, as those who serve them tell it. For the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from ..grid.deployments import DeploymentReport, missing_layers, strip

FRESH = timedelta(seconds=10)
"""What a process said counts for so long; it says it again every few seconds."""


class Deployed:
    """What each process that serves language models said last."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[datetime, list[dict[str, Any]]]] = {}

    def tell(self, holder: str, deployments: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """A process serves these, and no others. Raises KeyError, TypeError or ValueError on what can't be shown."""
        self._forget(now)
        self._told[holder] = (now, [_row(one) for one in deployments])

    def now(self, now: datetime) -> list[dict[str, Any]]:
        """A document for each deployment, by model."""
        self._forget(now)
        return sorted((row for _, rows in self._told.values() for row in rows), key=lambda row: str(row["model"]))

    def _forget(self, now: datetime) -> None:
        self._told = {holder: said for holder, said in self._told.items() if now - said[0] < FRESH}


def _row(told: Mapping[str, Any]) -> dict[str, Any]:
    report = DeploymentReport.from_wire(told)
    return {
        "model": str(told["model"]),
        "state": report.state.value,
        "replicas": int(told["replicas"]),
        "ready": report.ready,
        "why": report.why,
        "num_layers": report.num_layers,
        "missing": [[gap.start, gap.stop] for gap in missing_layers(report.coverage, report.num_layers)],
        "coverage": [asdict(held) for held in report.coverage],
        "strip": [asdict(row) for row in strip(report.coverage, report.num_layers)],
    }
