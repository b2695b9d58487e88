from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.config import ConfigError, Loaded, Problem, load_settings
from idlegrid.grid.config.fields import mask


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def problems(**places) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_settings(**{"environ": {}} | places)
    return caught.value.problems


def only(found: tuple[Problem, ...]) -> Problem:
    (problem,) = found
    return problem


# --- which place wins ---


def test_defaults_where_nothing_is_said():
    loaded = load_settings(environ={})
    assert set(loaded.origins.values()) == {"default"}


def test_environment_wins_over_dotenv_over_file_over_default():
    write("config.yaml", "region: oceania\ncountry: nz\ncity: wellington\n")
    write(".env", "GPU_COUNTRY=au\nGPU_CITY='perth'\n")
    loaded = load_settings(environ={"GPU_CITY": "hobart", "PATH": "/bin"})
    settings = loaded.settings
    assert (settings.region, settings.country, settings.city) == ("oceania", "au", "hobart")
    assert loaded.origins["region"] == "config.yaml (config.yaml:1)"
    assert loaded.origins["country"] == ".env (.env:1)"
    assert loaded.origins["city"] == "environment GPU_CITY"
    assert loaded.origins["name"] == "default"


@given(st.sets(st.sampled_from(["file", "dotenv", "environment"])))
def test_any_mix_of_places_obeys_the_order(present: set[str]):
    write("c.yaml", "heartbeat_interval: 11\n" if "file" in present else "")
    write("d.env", "GPU_HEARTBEAT_INTERVAL=12\n" if "dotenv" in present else "")
    environ = {"GPU_HEARTBEAT_INTERVAL": "13"} if "environment" in present else {}
    value = load_settings("c.yaml", "d.env", environ).settings.heartbeat_interval
    order = {"environment": 13, "dotenv": 12, "file": 11}
    assert value == next((order[place] for place in order if place in present), 30)


def test_an_empty_variable_counts_as_not_set():
    write(".env", "GPU_COUNTRY=\n")
    assert load_settings(environ={"GPU_REGION": ""}).origins["region"] == "default"


def test_values_are_typed():
    environ = {
        "GPU_SUPPORTED_TYPES": "llm, embedding",
        "GPU_MAX_MEMORY_GB": "auto",
        "GPU_ENABLE_CPU_OFFLOAD": "false",
        "IDLEGRID_REGIONS_NETWORKS": "10.0.0.0/8=europe-west, 2001:db8::/32=oceania",
    }
    settings = load_settings(environ=environ).settings
    assert settings.supported_types == ("llm", "embedding")
    assert settings.gpu.max_memory_gb is None
    assert settings.gpu.enable_cpu_offload is False
    assert settings.regions.networks == {"10.0.0.0/8": "europe-west", "2001:db8::/32": "oceania"}


def test_an_empty_section_is_no_section():
    write("config.yaml", "gpu:\nregions:\n  networks:\n    10.0.0.0/8: oceania\n")
    assert load_settings(environ={}).settings.regions.networks == {"10.0.0.0/8": "oceania"}


# --- what is refused ---


UNKNOWN = [
    ("regoin: oceania\n", "regoin", "region", 1),
    (
        "load_control:\n  max_concurent_jobs: 2\n",
        "load_control.max_concurent_jobs",
        "load_control.max_concurrent_jobs",
        2,
    ),
    ("acceptance_rate: 0.5\n", "acceptance_rate", "load_control.acceptance_rate", 1),
    (
        "distributed:\n  kv_cache:\n    redis_ur: x\n",
        "distributed.kv_cache.redis_ur",
        "distributed.kv_cache.redis_url",
        3,
    ),
    ("observability:\n  tracin: {enabled: true}\n", "observability.tracin", "observability.tracing", 2),
]


@pytest.mark.parametrize(("text", "key", "suggestion", "line"), UNKNOWN, ids=[row[1] for row in UNKNOWN])
def test_an_unknown_key_is_refused_at_any_depth(text: str, key: str, suggestion: str, line: int):
    problem = only(problems(config_path=write("config.yaml", text)))
    assert (problem.key, problem.origin) == (key, f"config.yaml (config.yaml:{line})")
    assert f"Did you mean '{suggestion}'?" in problem.message


def test_an_unknown_variable_of_ours_is_refused_in_dotenv_and_foreign_ones_are_left_alone():
    problem = only(problems(dotenv_path=write("x.env", "OTHER=1\nGPU_ACEPTANCE_RATE=0.5\n")))
    assert (problem.key, problem.origin) == ("GPU_ACEPTANCE_RATE", "x.env (x.env:2)")
    assert "Did you mean 'GPU_ACCEPTANCE_RATE'?" in problem.message


def test_in_the_environment_only_what_looks_like_ours_is_warned_of():
    environ = {
        "GPU_ACEPTANCE_RATE": "1",
        "IDLEGRID_X": "1",
        "GPU_MAX_HEAP_SIZE": "100",
        "GPU_FAN": "1",
        "IDLEGRID_FAILPOINT": "x",
    }
    loaded = load_settings(environ=environ)
    assert [warning.key for warning in loaded.warnings] == ["GPU_ACEPTANCE_RATE", "IDLEGRID_X"]
    assert "Did you mean 'GPU_ACCEPTANCE_RATE'?" in loaded.warnings[0].message


@pytest.mark.parametrize(
    ("variable", "value", "key", "allowed"),
    [
        ("GPU_ACCEPTANCE_RATE", "0.05", "load_control.acceptance_rate", "from 0.1 to 1.0"),
        ("GPU_ACCEPTANCE_RATE", "nan", "load_control.acceptance_rate", "from 0.1 to 1.0"),
        ("GPU_MAX_CONCURRENT_JOBS", "0", "load_control.max_concurrent_jobs", "from 1 to 1024"),
        ("GPU_MAX_CONCURRENT_JOBS", "many", "load_control.max_concurrent_jobs", "an integer"),
        ("GPU_REGION", "asia-est", "region", "asia-east, asia-south"),
        ("GPU_SUPPORTED_TYPES", "embeding", "supported_types", "Did you mean 'embedding'?"),
        ("GPU_SUPPORTED_TYPES", ",", "supported_types", "the list is empty"),
        ("GPU_TIME_ZONE", "Europe/Berln", "load_control.time_zone", "IANA"),
        ("GPU_SCHEDULE", "mon-fry 18:00-08:00", "load_control.schedule", "'fry' is no day"),
        ("GPU_SERVER_URL", "ftp://localhost", "server.url", "http:// or https://"),
        ("GPU_MAX_MEMORY_GB", "-1", "gpu.max_memory_gb", "above 0"),
        ("GPU_LLM_ENGINE", "vlm", "inference.engine", "torch, vllm, sglang, transformers"),
        ("GPU_SERVER_VERIFY_SSL", "maybe", "server.verify_ssl", "true or false"),
        ("IDLEGRID_REGIONS_NETWORKS", "10.0.0.0/33=oceania", "regions.networks", "10.0.0.0/33"),
        ("IDLEGRID_REGIONS_NETWORKS", "10.0.0.0/8=ocenia", "regions.networks", "ocenia"),
        ("IDLEGRID_API_PORT", "65536", "api.port", "from 0 to 65535"),
    ],
)
def test_a_value_out_of_bounds_tells_key_value_place_and_range(variable: str, value: str, key: str, allowed: str):
    problem = only(problems(environ={variable: value}))
    assert (problem.key, problem.origin) == (key, f"environment {variable}")
    assert value in str(problem)
    assert allowed in str(problem)


def test_the_line_of_a_bad_value_is_told():
    path = write("config.yaml", "region: oceania\nload_control:\n  acceptance_rate: 1.5\n")
    assert str(only(problems(config_path=path))) == (
        "load_control.acceptance_rate: 1.5 is not allowed. "
        "Allowed: a number from 0.1 to 1.0. [config.yaml (config.yaml:3)]"
    )


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"GPU_WORKING_HOURS_START": "9"}, "both or not at all"),
        ({"GPU_DISTRIBUTED_KV_CACHE_ENABLE_REDIS": "true"}, "redis_url is needed"),
        (
            {"GPU_DISTRIBUTED_MODEL_SHARD_START_LAYER": "9", "GPU_DISTRIBUTED_MODEL_SHARD_END_LAYER": "3"},
            "behind end_layer",
        ),
    ],
)
def test_settings_that_contradict_each_other(environ: dict[str, str], message: str):
    problem = only(problems(environ=environ))
    assert message in problem.message
    assert all(name in problem.origin for name in environ)


def test_everything_that_is_wrong_is_told_in_one_go():
    write("config.yaml", "regoin: x\napi:\n  port: -1\n")
    write(".env", "GPU_NOPE_NOPE=1\n")
    assert len(problems(environ={"GPU_DEVICE_ID": "-1"})) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("region: [\n", "cannot be read"),
        ("- a\n- b\n", "keys with values"),
        ("region: oceania\nregion: oceania\n", "given twice"),
        ("gpu: 3\n", "It has: device_id, max_memory_gb, enable_cpu_offload"),
        ("region: !!python/object:os.system x\n", "cannot be read"),
    ],
)
def test_a_file_of_the_wrong_form(text: str, message: str):
    assert message in problems(config_path=write("config.yaml", text))[0].message


def test_a_line_of_dotenv_of_the_wrong_form():
    assert "not of the form" in only(problems(dotenv_path=write("x.env", "GPU_REGION='open\n"))).message


@pytest.mark.parametrize("place", ["config_path", "dotenv_path"])
def test_a_file_that_is_named_must_be_there(place: str):
    assert "cannot be read" in only(problems(**{place: "missing"})).message


# --- what is shown ---


def shown(loaded: Loaded) -> dict[str, tuple[str, str]]:
    return {row.key: (row.value, row.origin) for row in loaded.rows()}


def test_rows_tell_key_value_and_origin_of_every_setting():
    rows = shown(load_settings(environ={"GPU_SUPPORTED_TYPES": "llm,embedding"}))
    assert set(rows) == set(load_settings(environ={}).origins)
    assert rows["supported_types"] == ("llm,embedding", "environment GPU_SUPPORTED_TYPES")
    assert rows["gpu.max_memory_gb"] == ("auto", "default")


def test_secrets_are_never_shown():
    variable = "GPU_DISTRIBUTED_KV_CACHE_REDIS_URL"
    rows = shown(load_settings(environ={variable: "redis://me:hunter2@cache:6379/0?password=hunter2"}))
    assert rows["distributed.kv_cache.redis_url"][0] == "redis://********@cache:6379/0?********"
    assert "hunter2" not in str(only(problems(environ={variable: "htp://me:hunter2@cache"})))
    assert "hunter2" not in str(only(problems(environ={variable: "hunter2"})))


@given(st.text(min_size=8, alphabet="abcdefgh0123456789"))
def test_a_masked_text_never_holds_the_secret(secret: str):
    assert secret not in mask(secret)
    assert secret not in mask(f"redis://:{secret}@host/0")
