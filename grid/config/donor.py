"""What a donor decides: the server it works for, its models, its GPU, and how much of it may be used."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from ..schedule import Schedule
from .fields import Section, setting
from .kinds import Auto, HttpUrl, NonEmpty, TimeZone, WeekSchedule


class Server(Section):
    """The grid's HTTP service, as a donor reaches it."""

    url: HttpUrl = setting(
        "http://localhost:8000",
        "Address of the grid's HTTP service.",
        variable="GPU_SERVER_URL",
        secret=True,
        allowed="an http:// or https:// URL",
    )
    timeout: float = setting(
        30.0, "Longest wait for one answer of the service.", variable="GPU_SERVER_TIMEOUT", unit="s", gt=0, le=3600
    )
    verify_ssl: bool = setting(
        True, "Check the service's TLS certificate. Turn off for a test only.", variable="GPU_SERVER_VERIFY_SSL"
    )


def _model_of(what: str, variable: str) -> NonEmpty | None:
    text = f"Model for {what}: a name of the catalogue, a Hugging Face id or a local folder."
    value: NonEmpty | None = setting(None, text, variable=variable, unset="the catalogue's default that fits")
    return value


class LlmEngine(Section):
    """The language model."""

    model_id: NonEmpty | None = _model_of("text generation", "GPU_LLM_MODEL")


class ImageEngine(Section):
    """The image generator."""

    model_id: NonEmpty | None = _model_of("image generation", "GPU_IMAGE_MODEL")


class VisionEngine(Section):
    """The model that looks at images."""

    model_id: NonEmpty | None = _model_of("questions about images", "GPU_VISION_MODEL")


class WhisperEngine(Section):
    """The speech recogniser."""

    model_id: NonEmpty | None = _model_of("speech recognition", "GPU_WHISPER_MODEL")
    engine: Literal["transformers", "faster-whisper"] = setting(
        "transformers",
        "What hears: transformers, or faster-whisper where that is installed.",
        variable="GPU_WHISPER_ENGINE",
    )


class EmbeddingEngine(Section):
    """The embedding model."""

    model_id: NonEmpty | None = _model_of("embeddings", "GPU_EMBEDDING_MODEL")


class Engines(Section):
    """Which model serves each job type."""

    llm: LlmEngine = LlmEngine()
    image_gen: ImageEngine = ImageEngine()
    vision: VisionEngine = VisionEngine()
    whisper: WhisperEngine = WhisperEngine()
    embedding: EmbeddingEngine = EmbeddingEngine()


class Gpu(Section):
    """The GPU that is lent."""

    device_id: int = setting(0, "Number of the GPU, as nvidia-smi counts.", variable="GPU_DEVICE_ID", ge=0)
    max_memory_gb: Auto[float] = setting(
        None,
        "GPU memory that the grid may use at most.",
        variable="GPU_MAX_MEMORY_GB",
        unit="GB",
        unset="auto",
        allowed="a number above 0, or auto (all that there is)",
        gt=0,
    )
    enable_cpu_offload: bool = setting(
        True, "Keep weights in main memory where GPU memory is short.", variable="GPU_ENABLE_CPU_OFFLOAD"
    )


class LoadControl(Section):
    """When and how hard the donor's machine works."""

    acceptance_rate: float = setting(
        1.0, "Share of the offered work to take.", variable="GPU_ACCEPTANCE_RATE", ge=0.1, le=1.0
    )
    max_concurrent_jobs: int = setting(1, "Jobs at the same time.", variable="GPU_MAX_CONCURRENT_JOBS", ge=1, le=1024)
    max_jobs_per_hour: int = setting(
        0, "Jobs started within any 60 minutes; 0: no limit.", variable="GPU_MAX_JOBS_PER_HOUR", unit="1/h", ge=0
    )
    working_hours_start: int | None = setting(
        None,
        "Hour of the day at which work begins; only together with the end.",
        variable="GPU_WORKING_HOURS_START",
        unit="h",
        unset="around the clock",
        ge=0,
        le=23,
    )
    working_hours_end: int | None = setting(
        None,
        "Hour of the day at which work ends; before the start: on the next day.",
        variable="GPU_WORKING_HOURS_END",
        unit="h",
        unset="around the clock",
        ge=0,
        le=23,
    )
    schedule: WeekSchedule | None = setting(
        None,
        "Windows of the week in which work is taken; with working hours too, both must allow it.",
        variable="GPU_SCHEDULE",
        unset="the whole week",
        allowed="days and times such as mon-fri 18:00-08:00, sat-sun 00:00-24:00",
    )
    time_zone: TimeZone | None = setting(
        None,
        "Time zone of the working hours and of the schedule.",
        variable="GPU_TIME_ZONE",
        unset="the machine's own",
        allowed="a name of the IANA database, such as Europe/Berlin",
    )
    max_gpu_memory_percent: float = setting(
        90.0,
        "Work is refused that would fill the GPU's memory beyond this share.",
        variable="GPU_MAX_GPU_MEMORY_PERCENT",
        unit="%",
        ge=1,
        le=100,
    )
    only_when_idle_minutes: float = setting(
        0.0,
        "Work only after nobody touched keyboard or mouse for so long; 0: also while somebody does.",
        variable="GPU_ONLY_WHEN_IDLE_MINUTES",
        unit="min",
        ge=0,
        le=1440,
    )
    pause_on_battery: bool = setting(
        True, "Free the machine while it runs on battery.", variable="GPU_PAUSE_ON_BATTERY"
    )
    max_gpu_temperature: float = setting(
        0.0,
        "Take nothing new from this temperature on, until the GPU is 10 °C cooler; 0: the driver looks after it.",
        variable="GPU_MAX_GPU_TEMPERATURE",
        unit="°C",
        ge=0,
        le=120,
    )
    pause_for_other_gpu_programs: bool = setting(
        True,
        "Free the GPU as soon as another program uses it.",
        variable="GPU_PAUSE_FOR_OTHER_GPU_PROGRAMS",
    )

    @model_validator(mode="after")
    def _both_hours(self) -> Self:
        if (self.working_hours_start is None) != (self.working_hours_end is None):
            raise ValueError("working_hours_start and working_hours_end are set both or not at all")
        return self

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        start, end = self.working_hours_start, self.working_hours_end
        if self.schedule is None or start is None or end is None or start == end:
            return self
        if not Schedule(self.schedule).meets(start, end):
            raise ValueError(f"schedule is {self.schedule!r}, which never meets the working hours {start}-{end}")
        return self


class Direct(Section):
    """Direct mode: clients talk to the worker itself."""

    enabled: bool = setting(False, "Offer direct mode.", variable="GPU_DIRECT_ENABLED")
    host: NonEmpty = setting("0.0.0.0", "Address to listen on.", variable="GPU_DIRECT_HOST")  # noqa: S104 - SPEC's default, off unless enabled
    port: int = setting(8080, "Port to listen on; 0: any free one.", variable="GPU_DIRECT_PORT", ge=0, le=65535)
    public_url: HttpUrl | None = setting(
        None,
        "Address under which clients reach this worker; without it none is sent here.",
        variable="GPU_DIRECT_PUBLIC_URL",
        secret=True,
        allowed="an http:// or https:// URL",
    )
    tls_cert: Path | None = setting(
        None,
        "Certificate chain (PEM) of the endpoint; only together with the key.",
        variable="GPU_DIRECT_TLS_CERT",
        unset="plain http: for private networks, or behind a proxy that does TLS",
        allowed="a file",
    )
    tls_key: Path | None = setting(
        None, "Key (PEM) of that certificate.", variable="GPU_DIRECT_TLS_KEY", unset="plain http", allowed="a file"
    )

    @model_validator(mode="after")
    def _both_files(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are set both or not at all")
        return self
