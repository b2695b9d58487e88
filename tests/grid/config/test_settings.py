"""The contract's table of keys, variables and defaults, and what the settings become."""

from __future__ import annotations

import pytest

from idlegrid.grid.config import Settings
from idlegrid.grid.config.fields import settings_of
from idlegrid.grid.regions import REGIONS

# key, variable, default: the table of the contract, written out
CONTRACT = """
server.url GPU_SERVER_URL http://localhost:8000
server.timeout GPU_SERVER_TIMEOUT 30.0
server.verify_ssl GPU_SERVER_VERIFY_SSL true
name GPU_WORKER_NAME generated
region GPU_REGION asia-east
country GPU_COUNTRY none
city GPU_CITY none
supported_types GPU_SUPPORTED_TYPES what the machine can run
engines.llm.model_id GPU_LLM_MODEL the catalogue's default that fits
engines.image_gen.model_id GPU_IMAGE_MODEL the catalogue's default that fits
engines.vision.model_id GPU_VISION_MODEL the catalogue's default that fits
engines.whisper.model_id GPU_WHISPER_MODEL the catalogue's default that fits
engines.embedding.model_id GPU_EMBEDDING_MODEL the catalogue's default that fits
gpu.device_id GPU_DEVICE_ID 0
gpu.max_memory_gb GPU_MAX_MEMORY_GB auto
gpu.enable_cpu_offload GPU_ENABLE_CPU_OFFLOAD true
load_control.acceptance_rate GPU_ACCEPTANCE_RATE 1.0
load_control.max_concurrent_jobs GPU_MAX_CONCURRENT_JOBS 1
load_control.max_jobs_per_hour GPU_MAX_JOBS_PER_HOUR 0
load_control.working_hours_start GPU_WORKING_HOURS_START around the clock
load_control.working_hours_end GPU_WORKING_HOURS_END around the clock
load_control.max_gpu_memory_percent GPU_MAX_GPU_MEMORY_PERCENT 90.0
heartbeat_interval GPU_HEARTBEAT_INTERVAL 30.0
poll_interval GPU_POLL_INTERVAL 2.0
direct.enabled GPU_DIRECT_ENABLED false
direct.host GPU_DIRECT_HOST 0.0.0.0
direct.port GPU_DIRECT_PORT 8080
direct.public_url GPU_DIRECT_PUBLIC_URL none
inference.engine GPU_LLM_ENGINE torch
inference.vllm.gpu_memory_utilization - 0.85
inference.vllm.max_num_seqs - 256
inference.sglang.mem_fraction_static - 0.8
inference.sglang.chunked_prefill_size - 8192
inference.batch.max_batch_size - 32
inference.batch.max_wait_ms - 50.0
distributed.role - hybrid
distributed.model_shard.model_id - assigned by the grid
distributed.model_shard.start_layer - assigned by the grid
distributed.model_shard.end_layer - assigned by the grid
distributed.kv_cache.gpu_cache_size_gb - 4.0
distributed.kv_cache.cpu_cache_size_gb - 16.0
distributed.kv_cache.enable_redis - false
distributed.kv_cache.redis_url - none
speculative.enabled - false
speculative.num_speculative_tokens - 5
speculative.tree_width - 3
speculative.tree_depth - 5
speculative.adaptive_depth - true
speculative.min_accept_rate - 0.3
observability.metrics.enabled - true
observability.metrics.port - 9090
observability.tracing.enabled - false
observability.tracing.exporter - otlp
observability.tracing.endpoint - http://localhost:4317
observability.tracing.sample_rate - 1.0
"""
ROWS = [tuple(line.split(maxsplit=2)) for line in CONTRACT.strip().splitlines()]
SETTINGS = {item.key: item for item in settings_of(Settings)}


@pytest.mark.parametrize(("key", "variable", "default"), ROWS, ids=[row[0] for row in ROWS])
def test_every_key_of_the_contract(key: str, variable: str, default: str):
    item = SETTINGS[key]
    # where the contract names no variable, the documented rule does
    assert item.variable == (f"GPU_{key.upper().replace('.', '_')}" if variable == "-" else variable)
    assert item.show(item.default) == default


def test_keys_beyond_the_contract_are_the_services_own_and_the_time_zone():
    guard = {"only_when_idle_minutes", "pause_on_battery", "max_gpu_temperature", "pause_for_other_gpu_programs"}
    of_donors = {f"load_control.{name}" for name in {"time_zone", "schedule"} | guard}
    of_donors |= {"direct.tls_cert", "direct.tls_key", "engines.whisper.engine"}
    own = set(SETTINGS) - {row[0] for row in ROWS} - of_donors
    assert {key.partition(".")[0] for key in own} == {
        "api",
        "scheduler",
        "fetch",
        "regions",
        "database",
        "jobs",
        "models",
    }
    assert all(SETTINGS[key].variable == f"IDLEGRID_{key.upper().replace('.', '_')}" for key in own)


def test_variables_are_unique_and_everything_is_described():
    assert len({item.variable for item in SETTINGS.values()}) == len(SETTINGS)
    assert all(item.description.endswith(".") and item.allowed for item in SETTINGS.values())


def test_everything_listens_on_loopback_unless_told_otherwise():
    settings = Settings()
    assert settings.api.host == settings.scheduler.host == "127.0.0.1"
    assert not settings.direct.enabled, "its address is the contract's 0.0.0.0, so it stays off"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"api": {"port": 9000}}, "http://127.0.0.1:9000"),
        ({"api": {"host": "0.0.0.0", "port": 9000}}, "http://127.0.0.1:9000"),
        ({"api": {"host": "::1"}}, "http://[::1]:8000"),
        ({"api": {"port": 0}}, "http://localhost:8000"),
        ({"api": {"port": 9000}, "server": {"timeout": 5}}, "http://127.0.0.1:9000"),
        ({"api": {"port": 9000}, "server": {"url": "https://grid.example"}}, "https://grid.example"),
        ({"api": {"port": 9000}, "server": {"url": "http://localhost:8000"}}, "http://localhost:8000"),
    ],
)
def test_commands_find_the_service_that_is_named_else_this_machines(said, found):
    assert Settings.model_validate(said).service_url == found


def test_limits_carry_the_load_control():
    settings = Settings.model_validate(
        {
            "load_control": {
                "acceptance_rate": 0.5,
                "working_hours_start": 22,
                "working_hours_end": 6,
                "time_zone": "Asia/Tokyo",
            }
        }
    )
    limits = settings.limits()
    assert (limits.acceptance_rate, limits.working_hours_start, limits.working_hours_end) == (0.5, 22, 6)
    assert (limits.time_zone, limits.max_concurrent_jobs, limits.max_gpu_memory_percent) == ("Asia/Tokyo", 1, 90.0)


def test_a_donor_is_what_the_machine_has_narrowed_by_the_settings():
    settings = Settings.model_validate(
        {"name": "attic", "region": "oceania", "supported_types": "embedding,llm", "gpu": {"max_memory_gb": 8}}
    )
    donor = settings.to_donor(
        id="0123456789", gpu_model="RTX 3090", gpu_memory_gb=24.0, gpu_count=1,
        supported_types=frozenset({"embedding", "whisper"}),
    )  # fmt: skip
    assert (donor.name, donor.region, donor.gpu_memory_gb) == ("attic", "oceania", 8.0)
    assert donor.supported_types == {"embedding"}
    assert donor.region in REGIONS


def test_a_donor_without_settings_is_the_machine():
    found = frozenset({"embedding"})
    donor = Settings().to_donor(id="0123456789", gpu_model=None, gpu_memory_gb=0.0, gpu_count=0, supported_types=found)
    assert (donor.name, donor.supported_types, donor.limits) == ("worker-01234567", found, Settings().limits())


def test_making_settings_reads_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPU_REGION", "oceania")
    assert Settings().region == "asia-east"


def test_keys_are_wanted_wherever_strangers_may_come():
    assert not Settings().api.needs_keys
    for host, auth, needed in [("0.0.0.0", None, True), ("0.0.0.0", False, False), ("::1", True, True)]:
        assert Settings.model_validate({"api": {"host": host, "auth": auth}}).api.needs_keys is needed


def test_proxies_are_networks():
    api = Settings.model_validate({"api": {"trusted_proxies": "10.0.0.0/8, 192.0.2.1"}}).api
    assert api.trusted_proxies == ("10.0.0.0/8", "192.0.2.1/32")
    with pytest.raises(ValueError, match="proxies"):
        Settings.model_validate({"api": {"trusted_proxies": "a proxy"}})


def test_certificate_and_key_come_together():
    assert Settings.model_validate({"direct": {"tls_cert": "a.pem", "tls_key": "b.pem"}}).direct.tls_key is not None
    with pytest.raises(ValueError, match="both or not at all"):
        Settings.model_validate({"direct": {"tls_cert": "a.pem"}})


@pytest.mark.parametrize(
    ("host", "said", "taken"), [("127.0.0.1", None, True), ("0.0.0.0", None, False), ("0.0.0.0", True, True)]
)
def test_private_addresses_of_donors_are_for_private_grids(host, said, taken):
    api = Settings.model_validate({"api": {"host": host, "private_direct_urls": said}}).api
    assert api.takes_private_urls is taken
