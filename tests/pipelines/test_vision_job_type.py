"""The job type `vision`: its parameters' bounds, what it asks of a donor, and what is believed of a result."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from idlegrid.grid.job_types import job_type
from idlegrid.pipelines.vision import JOB_TYPE, VisionParams, VisionResult

PARAMS = {"image_base64": "AAAA", "task": "image_qa", "question": "what is this?", "max_tokens": 9}
RESULT = {
    "response": "a fox",
    "task": "image_qa",
    "usage": {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23},
}


def test_it_comes_through_the_register():
    assert job_type("vision") is JOB_TYPE


def test_the_defaults_are_those_of_the_contract():
    assert VisionParams(image_base64="AAAA", task="ocr").max_tokens == 1024


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"image_base64": None}, "either image_base64 or image_url"),
        ({"image_url": "https://example.org/a.png"}, "either image_base64 or image_url"),
        ({"task": "paint"}, "task"),
        ({"question": None}, "question"),
        ({"task": "ocr"}, "question"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"image": "AAAA"}, "image"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(changes, what):
    with pytest.raises(ValidationError, match=what):
        VisionParams.model_validate(PARAMS | changes)


def test_the_ask_names_the_model_and_its_memory():
    ask = JOB_TYPE.ask(VisionParams.model_validate(PARAMS))
    assert (ask.type, ask.model, ask.gpu_memory_gb) == ("vision", "Qwen/Qwen2-VL-7B-Instruct", 20.0)


def test_importing_it_brings_no_torch():
    code = "import sys, idlegrid.pipelines.vision as w; w.JOB_TYPE.ask(w.VisionParams(image_base64='AA', task='ocr'))"
    code += "; sys.exit(' '.join({'torch', 'dask', 'fastapi', 'PIL'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"task": "ocr"}, "task ocr where image_qa"),
        ({"usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}}, "10 tokens where at most 9"),
        ({"usage": {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 30}}, "not the sum"),
    ],
)
def test_a_result_that_can_not_be_is_not_believed(changes, what):
    params = VisionParams.model_validate(PARAMS)
    JOB_TYPE.check(params, VisionResult.model_validate(RESULT))
    with pytest.raises(ValueError, match=what):
        JOB_TYPE.check(params, VisionResult.model_validate(RESULT | changes))


def test_a_worker_fetches_nothing():
    with pytest.raises(ValueError, match="a worker fetches nothing"):
        JOB_TYPE.run(VisionParams(image_url="http://127.0.0.1/a.png", task="ocr"))


def test_what_is_no_picture_is_the_clients_fault():
    with pytest.raises(ValueError, match="no Base64"):
        JOB_TYPE.run(VisionParams(image_base64="%%%", task="ocr"))
    with pytest.raises(ValueError, match="no picture"):
        JOB_TYPE.run(VisionParams(image_base64="AAAA", task="ocr"))
