"""All settings in one value."""

from __future__ import annotations

from ..donors import Donor, Limits
from ..regions import REGIONS
from ..schedule import Schedule
from .donor import Direct, Engines, Gpu, LoadControl, Server
from .fetch import Fetch
from .fields import Section, setting
from .inference import Distributed, Inference, Speculative
from .jobs import Database, Jobs
from .kinds import JobTypes, NonEmpty, Region
from .models import Models
from .service import Api, Observability, Regions, Scheduler
from .time_zone import local_time_zone


class Settings(Section):
    """Every setting. `Settings()` holds the defaults and reads nothing; `load_settings` reads files and variables."""

    server: Server = Server()
    name: NonEmpty | None = setting(
        None, "Name of this worker, for people.", variable="GPU_WORKER_NAME", unset="generated"
    )
    region: Region = setting(
        "asia-east", "Where this machine stands.", variable="GPU_REGION", allowed=f"one of {', '.join(REGIONS)}"
    )
    country: NonEmpty | None = setting(None, "Country of this machine, for people.", variable="GPU_COUNTRY")
    city: NonEmpty | None = setting(None, "City of this machine, for people.", variable="GPU_CITY")
    supported_types: JobTypes | None = setting(
        None,
        "Job types to take; in the variable with commas.",
        variable="GPU_SUPPORTED_TYPES",
        unset="what the machine can run",
        allowed="some of llm, embedding, whisper, image_gen, vision and of the job types that are installed",
    )
    engines: Engines = Engines()
    gpu: Gpu = Gpu()
    load_control: LoadControl = LoadControl()
    heartbeat_interval: float = setting(
        30.0, "Time between two heartbeats.", variable="GPU_HEARTBEAT_INTERVAL", unit="s", ge=1, le=3600
    )
    poll_interval: float = setting(
        2.0, "Time between two questions for work.", variable="GPU_POLL_INTERVAL", unit="s", ge=0.1, le=300
    )
    direct: Direct = Direct()
    inference: Inference = Inference()
    distributed: Distributed = Distributed()
    models: Models = Models()
    speculative: Speculative = Speculative()
    observability: Observability = Observability()
    api: Api = Api()
    scheduler: Scheduler = Scheduler()
    fetch: Fetch = Fetch()
    regions: Regions = Regions()
    database: Database = Database()
    jobs: Jobs = Jobs()

    @property
    def service_url(self) -> str:
        """Base URL of the HTTP service for commands: `server.url` where it is set, else where ours listens."""
        named = "url" in self.server.model_fields_set or self.api.port == 0
        return self.server.url if named else self.api.own_url

    def limits(self) -> Limits:
        """The owner's limits; a time zone that is not set is the machine's own."""
        control = self.load_control
        return Limits(
            acceptance_rate=control.acceptance_rate,
            max_concurrent_jobs=control.max_concurrent_jobs,
            max_jobs_per_hour=control.max_jobs_per_hour,
            working_hours_start=control.working_hours_start,
            working_hours_end=control.working_hours_end,
            schedule=None if control.schedule is None else Schedule(control.schedule),
            time_zone=control.time_zone or local_time_zone(),
            max_gpu_memory_percent=control.max_gpu_memory_percent,
            only_when_idle_minutes=control.only_when_idle_minutes,
            pause_on_battery=control.pause_on_battery,
            max_gpu_temperature=control.max_gpu_temperature,
            pause_for_other_gpu_programs=control.pause_for_other_gpu_programs,
        )

    def to_donor(
        self,
        *,
        id: str,  # noqa: A002 - the field of Donor
        gpu_model: str | None,
        gpu_memory_gb: float,
        gpu_count: int,
        supported_types: frozenset[str],
    ) -> Donor:
        """This machine as a donor.

        The arguments are what was found on the machine; the settings narrow them: `supported_types` to the configured
        ones that the machine can run, `gpu_memory_gb` (of one GPU) to `gpu.max_memory_gb`.
        """
        wanted = self.supported_types
        most = self.gpu.max_memory_gb
        return Donor(
            id=id,
            name=self.name or f"worker-{id[:8]}",
            region=self.region,
            country=self.country,
            city=self.city,
            gpu_model=gpu_model,
            gpu_memory_gb=gpu_memory_gb if most is None else min(gpu_memory_gb, most),
            gpu_count=gpu_count,
            supported_types=supported_types if wanted is None else supported_types & frozenset(wanted),
            limits=self.limits(),
        )
