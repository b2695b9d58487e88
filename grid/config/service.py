"""The grid's own side: the HTTP service, the Dask scheduler, regions of clients, metrics and traces."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .fields import Section, setting
from .kinds import Cidrs, DaskAddress, HttpUrl, HttpUrls, Names, Networks, NonEmpty


class Api(Section):
    """The HTTP service. It listens on loopback unless told otherwise; elsewhere it wants API keys."""

    host: NonEmpty = setting("127.0.0.1", "Address to listen on.", variable="IDLEGRID_API_HOST")
    port: int = setting(8000, "Port to listen on; 0: any free one.", variable="IDLEGRID_API_PORT", ge=0, le=65535)
    public_urls: HttpUrls | None = setting(
        None,
        "Base URLs under which workers reach this service, any of which will do; in the variable with commas.",
        variable="IDLEGRID_API_PUBLIC_URLS",
        unset="where it listens",
        allowed="http:// or https:// URLs",
    )
    peer_url: HttpUrl | None = setting(
        None,
        "Base URL at which the other API processes of this grid reach this one: they pass chat on to the one that "
        "serves the deployments.",
        variable="IDLEGRID_API_PEER_URL",
        unset="where it listens, unless that is every address",
        allowed="an http:// or https:// URL",
    )
    allowed_hosts: Names | None = setting(
        None,
        "Host names under which it may be called, `*` for any; in the variable with commas.",
        variable="IDLEGRID_API_ALLOWED_HOSTS",
        unset="localhost while it listens on loopback, else any",
        allowed="host names",
    )
    auth: bool | None = setting(
        None,
        "Whether requests need an API key. Without, everybody who reaches the service may do everything.",
        variable="IDLEGRID_API_AUTH",
        unset="no while it listens on loopback, else yes",
    )
    private_direct_urls: bool | None = setting(
        None,
        "Whether donors may offer direct mode over plain http and at addresses of a private network.",
        variable="IDLEGRID_API_PRIVATE_DIRECT_URLS",
        unset="yes while it listens on loopback, else no",
    )
    worker_token: NonEmpty | None = setting(
        None,
        "Token with which workers ask for jobs over HTTP (`next-job`).",
        variable="IDLEGRID_API_WORKER_TOKEN",
        unset="workers can't ask",
        allowed="a long random text",
        secret=True,
    )
    key: NonEmpty | None = setting(
        None,
        "API key that commands send to `server.url`.",
        variable="IDLEGRID_API_KEY",
        allowed="a key that `idlegrid admin keys create` told",
        secret=True,
    )
    log_level: Literal["debug", "info", "warning", "error"] | None = setting(
        None,
        "What the service and the dispatcher log, as JSON lines.",
        variable="IDLEGRID_API_LOG_LEVEL",
        unset="info, and warning under `idlegrid up`",
    )
    trusted_proxies: Cidrs | None = setting(
        None,
        "Networks of proxies whose `X-Forwarded-For` is believed; in the variable with commas.",
        variable="IDLEGRID_API_TRUSTED_PROXIES",
        unset="none: the client is who connects",
        allowed="networks in CIDR form",
    )
    share_prefixes: bool = setting(
        False,
        "Whether prompts of different clients share cached prefixes. With it the time to the first token tells one "
        "client how another's prompts begin: only where all clients trust each other.",
        variable="IDLEGRID_API_SHARE_PREFIXES",
    )
    max_queue: int = setting(
        4096, "Inputs that may wait; beyond it 429.", variable="IDLEGRID_API_MAX_QUEUE", unit="inputs", ge=1
    )
    max_queue_chars: int = setting(
        16_000_000,
        "Text that may wait (a token counts as 4); beyond it 429.",
        variable="IDLEGRID_API_MAX_QUEUE_CHARS",
        unit="characters",
        ge=1,
    )
    max_batches_in_flight: int = setting(
        4,
        "Batches of one model that are computed at the same time.",
        variable="IDLEGRID_API_MAX_BATCHES_IN_FLIGHT",
        ge=1,
    )
    max_inputs: int = setting(
        2048, "Inputs in one request.", variable="IDLEGRID_API_MAX_INPUTS", unit="inputs", ge=1, le=65536
    )
    max_body_mb: float = setting(
        16.0, "Size of one request; beyond it 413.", variable="IDLEGRID_API_MAX_BODY_MB", unit="MB", gt=0, le=1024
    )
    max_audio_mb: float = setting(
        25.0,
        "Size of a recording at `/v1/audio`, in MiB as OpenAI counts; beyond it 413.",
        variable="IDLEGRID_API_MAX_AUDIO_MB",
        unit="MiB",
        gt=0,
        le=1024,
    )
    request_timeout: float = setting(
        60.0,
        "Time from a request's arrival to its answer; beyond it 504.",
        variable="IDLEGRID_API_REQUEST_TIMEOUT",
        unit="s",
        gt=0,
        le=3600,
    )
    generation_timeout: float = setting(
        600.0,
        "Time from the arrival of a chat or completion request to its last token; beyond it an error ends it.",
        variable="IDLEGRID_API_GENERATION_TIMEOUT",
        unit="s",
        gt=0,
        le=86400,
    )
    return_wait: float = setting(
        45.0,
        "How long answers of a model in stages wait, from the loss on, for a donor whose process ended while the other "
        "stages stayed loaded, when nobody else can take its layers: it may be starting again. 0: as for other losses.",
        variable="IDLEGRID_API_RETURN_WAIT",
        unit="s",
        ge=0,
        le=3600,
    )

    @property
    def urls_for_workers(self) -> tuple[str, ...]:
        """Base URLs that workers are told, without a slash at the end."""
        if self.public_urls is not None:
            return tuple(url.rstrip("/") for url in self.public_urls)
        return (self.own_url,)

    @property
    def own_url(self) -> str:
        """Base URL under which programs of its own machine reach it, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - that is what it means
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def on_loopback(self) -> bool:
        """Whether it listens where only this machine comes."""
        return self.host.startswith("127.") or self.host in ("localhost", "::1")

    @property
    def takes_private_urls(self) -> bool:
        """Whether the grid and its clients are one private network (`grid.direct_url.check_direct_url`)."""
        return self.on_loopback if self.private_direct_urls is None else self.private_direct_urls

    @property
    def needs_keys(self) -> bool:
        """Whether requests need an API key."""
        return not self.on_loopback if self.auth is None else self.auth


class Scheduler(Section):
    """The Dask scheduler: where to find it, or where to start it."""

    address: DaskAddress | None = setting(
        None,
        "Scheduler to connect to.",
        variable="IDLEGRID_SCHEDULER_ADDRESS",
        unset="start a local grid",
        allowed="a Dask address such as tcp://127.0.0.1:8786",
    )
    host: NonEmpty = setting("127.0.0.1", "Address to listen on.", variable="IDLEGRID_SCHEDULER_HOST")
    port: int = setting(8786, "Port to listen on; 0: any free one.", variable="IDLEGRID_SCHEDULER_PORT", ge=0, le=65535)
    tls: bool = setting(
        False,
        "Whether the Dask network is encrypted and everybody on it shows a certificate of the grid's own CA.",
        variable="IDLEGRID_SCHEDULER_TLS",
    )
    tls_folder: Path | None = setting(
        None,
        "Folder with the certificates, and with the CA's key where they are made.",
        variable="IDLEGRID_SCHEDULER_TLS_FOLDER",
        unset="`tls` beside the grid's secret",
        allowed="a path",
    )
    dashboard_port: int = setting(
        8787, "Port of the dashboard; 0: any free one.", variable="IDLEGRID_SCHEDULER_DASHBOARD_PORT", ge=0, le=65535
    )


class Regions(Section):
    """How a client's region follows from its address, when it names none."""

    networks: Networks = setting(
        {},
        "Region of each network; the longest prefix wins, and the table wins over the GeoIP file.",
        variable="IDLEGRID_REGIONS_NETWORKS",
        allowed="networks in CIDR form with a region code each",
    )
    geoip_path: Path | None = setting(
        None,
        "GeoIP database in MaxMind's format (.mmdb).",
        variable="IDLEGRID_REGIONS_GEOIP_PATH",
        allowed="a path",
    )


class Metrics(Section):
    """Prometheus metrics."""

    enabled: bool = setting(True, "Serve them.", variable="GPU_OBSERVABILITY_METRICS_ENABLED")
    port: int = setting(9090, "Port to serve them on.", variable="GPU_OBSERVABILITY_METRICS_PORT", ge=1, le=65535)


class Tracing(Section):
    """OpenTelemetry traces."""

    enabled: bool = setting(False, "Send them.", variable="GPU_OBSERVABILITY_TRACING_ENABLED")
    exporter: Literal["otlp"] = setting("otlp", "How they are sent.", variable="GPU_OBSERVABILITY_TRACING_EXPORTER")
    endpoint: HttpUrl = setting(
        "http://localhost:4317",
        "Where they are sent to.",
        variable="GPU_OBSERVABILITY_TRACING_ENDPOINT",
        secret=True,
        allowed="an http:// or https:// URL",
    )
    sample_rate: float = setting(
        1.0, "Share of requests that is traced.", variable="GPU_OBSERVABILITY_TRACING_SAMPLE_RATE", ge=0, le=1
    )


class Observability(Section):
    """Metrics and traces of a worker."""

    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()
