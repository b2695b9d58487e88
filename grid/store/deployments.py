"""Deployments: which language models are wanted, and beside it what whoever serves them reports."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..deployments import DeploymentReport, DeploymentSpec
from .audit import By, note
from .database import Database, Row, Session
from .donors import VersionConflict
from .rows import instant, instant_or_none, plain, to_json

SERVING = "serving"
"""Name of the lease of whoever serves the deployments."""

INSERT = """
INSERT INTO deployments (model, spec, wanted, version, created_at, updated_at, actor)
VALUES (:model, :spec, true, :version, :at, :at, :actor) ON CONFLICT (model) DO NOTHING RETURNING *
"""
CHANGE = """
UPDATE deployments SET spec = :spec, version = version + 1, updated_at = {now}, actor = :actor
WHERE model = :model RETURNING *
"""
WITHDRAW = """
UPDATE deployments SET wanted = false, version = version + 1, updated_at = {now}, actor = :actor
WHERE model = :model AND wanted RETURNING *
"""
REPORT = """
UPDATE deployments SET report = :report, reported_at = {now} WHERE model = :model
AND EXISTS (SELECT 1 FROM leases WHERE name = 'serving' AND fence = :fence)
"""
GONE = """
DELETE FROM deployments WHERE model = :model AND NOT wanted
AND EXISTS (SELECT 1 FROM leases WHERE name = 'serving' AND fence = :fence)
"""
GET = "SELECT * FROM deployments WHERE model = :model"


class AlreadyDeployed(Exception):
    """This model is wanted already: change it, or withdraw it first."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} is deployed already: change it, or undeploy it first")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """A deployment as the store keeps it."""

    spec: DeploymentSpec
    wanted: bool
    """False: it was withdrawn, and is there until it is gone."""
    version: int
    """Raised by each change of what is wanted."""
    created_at: datetime
    updated_at: datetime
    actor: str
    """Who wanted it last."""
    report: DeploymentReport
    reported_at: datetime | None
    """When the report was written; one that has not changed is not written again. None: nobody did yet."""


class DeploymentStore:
    """What is wanted of language models. Each change is in the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> builtins.list[DeploymentRecord]:
        """All deployments in the order in which they were made, those too that are withdrawn and not gone yet."""
        with self._database.read() as session:
            rows = session.all("SELECT * FROM deployments ORDER BY created_at, model", {})
        return [_record(row) for row in rows]

    def get(self, model: str) -> DeploymentRecord | None:
        """One of them."""
        with self._database.read() as session:
            row = session.first(GET, {"model": model})
        return None if row is None else _record(row)

    def create(self, spec: DeploymentSpec, by: By) -> DeploymentRecord:
        """Want a model from now on. Raises AlreadyDeployed."""
        values = {"model": spec.model, "spec": to_json(spec.to_wire()), "actor": plain(by.actor, 200)}
        with self._database.write() as session:
            before = _locked(session, spec.model)
            if before is not None and before["wanted"]:
                raise AlreadyDeployed(spec.model)
            if before is not None:  # its version goes on, so that a report of what was is not taken for this one's
                session.run("DELETE FROM deployments WHERE model = :model", values)
            version = 1 if before is None else before["version"] + 1
            row = session.first(INSERT, {**values, "version": version, "at": session.now})
            if row is None:  # somebody else did so at this moment
                raise AlreadyDeployed(spec.model)
            note(session, "deployed", None, by, version=version, **spec.to_wire())
        return _record(row)

    def change(
        self, model: str, changes: Mapping[str, Any], by: By, *, expected: int | None = None
    ) -> DeploymentRecord | None:
        """Change some fields of what is wanted: one version more, unless all stays the same.

        None: it is not deployed. Raises VersionConflict unless it is at version `expected` (None: any).
        """
        with self._database.write() as session:
            row = _wanted(session, model, expected)
            if row is None:
                return None
            at = _record(row)
            spec = at.spec.change(**changes)
            if spec == at.spec:
                return at
            row = session.first(
                CHANGE, {"model": model, "spec": to_json(spec.to_wire()), "actor": plain(by.actor, 200)}
            )
            assert row is not None
            note(session, "deployment_changed", None, by, version=row["version"], **spec.to_wire())
        return _record(row)

    def withdraw(self, model: str, by: By, *, expected: int | None = None) -> DeploymentRecord | None:
        """Want a model no more. None: it is not deployed. Raises VersionConflict as `change`."""
        with self._database.write() as session:
            if _wanted(session, model, expected) is None:
                return None
            row = session.first(WITHDRAW, {"model": model, "actor": plain(by.actor, 200)})
            assert row is not None
            note(session, "undeployed", None, by, model=model, version=row["version"])
        return _record(row)

    def report(self, model: str, report: DeploymentReport, fence: int) -> bool:
        """Say how it stands. False: it is not there, or the lease `SERVING` is another's by now."""
        values = {"model": model, "report": to_json(report.to_wire()), "fence": fence}
        with self._database.single() as session:
            return session.run(REPORT, values) > 0

    def gone(self, model: str, fence: int) -> bool:
        """A withdrawn one is not served any more: forget it. False: it is wanted again, or as with `report`."""
        with self._database.single() as session:
            return session.run(GONE, {"model": model, "fence": fence}) > 0


def _locked(session: Session, model: str) -> Row | None:
    return session.first(f"{GET} FOR UPDATE" if session.postgres else GET, {"model": model})


def _wanted(session: Session, model: str, expected: int | None) -> Row | None:
    row = _locked(session, model)
    if row is None or not row["wanted"]:
        return None
    if expected is not None and row["version"] != expected:
        raise VersionConflict(row["version"])
    return row


def _record(row: Row) -> DeploymentRecord:
    return DeploymentRecord(
        spec=DeploymentSpec.from_wire(json.loads(row["spec"])),
        wanted=bool(row["wanted"]),
        version=row["version"],
        created_at=instant(row["created_at"]),
        updated_at=instant(row["updated_at"]),
        actor=row["actor"],
        report=DeploymentReport.from_wire(json.loads(row["report"])) if row["report"] else DeploymentReport(),
        reported_at=instant_or_none(row["reported_at"]),
    )
