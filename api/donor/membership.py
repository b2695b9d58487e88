"""One machine's membership in one grid: what its owner set, what the grid holds, and the process that they make."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...grid.config import Loaded, Settings, load_settings
from ...grid.config.loading import DEFAULT
from ...grid.credentials import VARIABLE as CREDENTIALS
from ...grid.credentials import Credentials, Signer
from ...grid.donors import Donor
from ...grid.job_types import runnable_types
from ...scheduler_plugins.machine import visible_gpu
from ...scheduler_plugins.security import VARIABLE as CERTIFICATE
from ..agent import puller_part, worker_part
from ..supervision import Part
from .environment import settings_environment
from .orders import VARIABLE as ORDERS
from .remote import in_force
from .server import Service
from .state import Home, Kept
from .warming import VARIABLE as WARM
from .warming import models_to_warm, to_variable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an agent was started."""

    config: Path | None = None
    """The configuration file. None: the home's."""
    scheduler: str | None = None
    """Of the Dask scheduler, in place of what the grid told."""
    drain_timeout: float = 300.0
    """Seconds that running work gets to finish."""


class Membership:
    """Everything that an agent goes by, as it is now."""

    def __init__(self, home: Home, options: Options) -> None:
        """Reads what the home holds. Raises ConfigError, OSError, BadCredentials."""
        self.home, self.options = home, options
        self.file = options.config or home.config
        self.loaded = self._load()
        self.kept = Kept.load(home.state)
        self.settings = in_force(self.loaded, self.kept.remote)
        """The settings that are in force."""
        self._signer = Signer(home.credentials)
        self._id = self._signer.credentials.worker_id
        _choose_gpu(self.settings)
        self._gpu = visible_gpu()

    @property
    def credentials(self) -> Credentials:
        """As they are on disk. Raises OSError, BadCredentials."""
        return self._signer.credentials

    @property
    def id(self) -> str:
        """Of this worker."""
        return self._id

    @property
    def scheduler(self) -> str | None:
        """Address of the Dask scheduler. None: the grid told none."""
        return self.options.scheduler or self.kept.scheduler_address

    def service(self) -> Service:
        """The grid's service, as this worker speaks to it."""
        server = self.loaded.settings.server
        return Service(self.credentials.server, timeout=server.timeout, verify=server.verify_ssl, signer=self._signer)

    def reload(self) -> None:
        """Read the configuration anew. Raises ConfigError."""
        self.loaded = self._load()
        self.settings = in_force(self.loaded, self.kept.remote)

    def keep(self, **changes: Any) -> None:
        """Change what outlives a restart."""
        self.kept = replace(self.kept, **changes)
        if "remote" in changes:
            self.settings = in_force(self.loaded, self.kept.remote)
        try:
            self.kept.save(self.home.state)
        except OSError as error:
            logger.warning("%s can't be written (%s): it holds until this agent ends", self.home.state, error.strerror)

    def donor(self) -> Donor:
        """This machine, as the rules know it."""
        found, kept, origins = donor_of(self.settings, self._id, self._gpu), self.kept, self.loaded.origins
        name = found.name if self.settings.name else kept.name or found.name
        region = found.region if origins["region"] != DEFAULT else kept.region or found.region
        return replace(found, name=name, region=region)

    def facts(self) -> dict[str, Any]:
        """The same, as the grid is told it."""
        return facts_of(self.donor(), self.settings)

    def part(self, tell: Callable[[str], None]) -> Part:
        """The worker process."""
        donor = self.donor()
        environment = settings_environment(self.loaded) | {
            CREDENTIALS: str(self.home.credentials),
            ORDERS: str(self.home.orders_socket),
            WARM: to_variable(models_to_warm(self.settings, donor)),
        }
        environment |= {CERTIFICATE: str(self.home.certificate)}
        patience, address = self.options.drain_timeout, self.scheduler
        if self.kept.pull or address is None:
            urls = [self.credentials.server.rstrip("/")]
            return puller_part(urls, donor, drain_timeout=patience, environment=environment, tell=tell)
        return worker_part(address, donor, drain_timeout=patience, environment=environment, quiet=False, tell=tell)

    def _load(self) -> Loaded:
        return load_settings(self.file if self.file.is_file() else None)


def donor_of(settings: Settings, worker_id: str, gpu: tuple[str | None, float, int]) -> Donor:
    """This machine as a donor under some settings; `gpu`: model, memory in GB and count, as `visible_gpu` has them."""
    model, memory, count = gpu
    return settings.to_donor(
        id=worker_id,
        gpu_model=model,
        gpu_memory_gb=memory,
        gpu_count=count,
        supported_types=runnable_types(),
    )


def facts_of(donor: Donor, settings: Settings) -> dict[str, Any]:
    """What a machine is, as it says when it registers and announces."""
    said: dict[str, Any] = {
        "name": donor.name,
        "region": donor.region,
        "country": donor.country,
        "city": donor.city,
        "gpu_model": donor.gpu_model,
        "gpu_memory_gb": donor.gpu_memory_gb,
        "gpu_count": donor.gpu_count,
        "supported_types": sorted(donor.supported_types),
        "models": sorted(donor.models) or None,
        "direct_url": settings.direct.public_url if settings.direct.enabled else None,
        "role": settings.distributed.role,
    }
    return {key: value for key, value in said.items() if value is not None or key == "gpu_model"}


def _choose_gpu(settings: Settings) -> None:
    """Let this process and those that it starts see the GPU that is lent, unless somebody chose already."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(settings.gpu.device_id))
