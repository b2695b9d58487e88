"""What needs the store: donors, durable jobs, clients' files, and batches of requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

from fastapi import APIRouter

from ...grid.config import Settings
from ..batches.endpoints import Endpoint
from ..batches.folder import FileFolder
from ..batches.runner import BatchRunner
from .admin_deployments import deployments_router
from .admin_keys import keys_router
from .admin_workers import enrolments_router, workers_router
from .auth import KeyRing
from .batches import batches_router
from .client_address import address_reader
from .files import files_router
from .jobs import Intake, jobs_router
from .jobs_direct import direct_router
from .jobs_door import JobDoor
from .jobs_events import events_router
from .jobs_queue import Lookout
from .jobs_stats import stats_router
from .jobs_sync import sync_router
from .jobs_why import Witness, why_router
from .limits import file_limits, files_folder
from .state import state_router
from .worker_auth import Checkpoint
from .worker_config import config_router
from .worker_doors import attempts_router
from .worker_heartbeat import heartbeat_router
from .worker_pull import pull_router
from .worker_register import register_router
from .worker_tokens import tokens_router


@dataclass(frozen=True, slots=True)
class Durable:
    """The doors in front of the store, and who works on batches behind them."""

    routers: tuple[APIRouter, ...]
    checkpoint: Checkpoint
    """Who knows the workers that registered."""
    runner: BatchRunner
    secret: bytes
    """Signs what workers show for their attempts."""
    check: Callable[[], Awaitable[None]]
    """Raises when the store is away."""


def durable(
    jobs: JobDoor,
    settings: Settings,
    ring: KeyRing | None,
    endpoints: Mapping[str, Endpoint],
    may_batch: Callable[[], bool],
) -> Durable:
    """`endpoints`: what lines of batches may ask for. `may_batch`: whether this process works on them."""
    checkpoint = Checkpoint(jobs, address_reader(settings.api.trusted_proxies))
    folder, limits = FileFolder(files_folder(settings)), file_limits(settings)
    most = settings.jobs.max_batch_lines
    runner = BatchRunner(jobs.store, folder, endpoints, most_lines=most, lives=limits.lives, may_run=may_batch)
    routers = (
        *donor_routers(jobs, checkpoint),  # first: heartbeats are the most frequent
        *job_routers(jobs, ring),
        files_router(jobs.store, folder, limits),
        batches_router(jobs.store, endpoints, runner.wake),
    )
    return Durable(routers, checkpoint, runner, jobs.secret, jobs.check)


def donor_routers(jobs: JobDoor, checkpoint: Checkpoint) -> Iterator[APIRouter]:
    """The doors for donors and for those who let them in."""
    address_of = address_reader(jobs.settings.api.trusted_proxies)
    yield register_router(jobs, address_of)
    yield heartbeat_router(jobs)
    yield config_router(jobs, address_of)
    yield tokens_router(jobs, address_of)
    yield enrolments_router(jobs, address_of)
    yield workers_router(jobs, address_of, checkpoint)


def job_routers(jobs: JobDoor, ring: KeyRing | None) -> Iterator[APIRouter]:
    """The doors for durable jobs. The order matters: `/jobs/sync` and `/jobs/stats/…` are no ids."""
    address_of, lookout = address_reader(jobs.settings.api.trusted_proxies), Lookout(jobs)
    intake, witness = Intake(jobs, lookout, address_of), Witness(jobs)
    yield stats_router(jobs, lookout, address_of)
    yield sync_router(jobs, intake, witness)
    yield direct_router(jobs, address_of)
    yield events_router(jobs)
    yield why_router(jobs, intake, witness)
    yield jobs_router(jobs, intake)
    yield attempts_router(jobs)
    yield pull_router(jobs, address_of)
    yield keys_router(jobs, ring)
    yield deployments_router(jobs, address_of)
    yield state_router(jobs, lookout)
