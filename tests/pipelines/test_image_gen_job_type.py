"""The job type `image_gen`: its parameters' bounds, what it asks of a donor, and what is believed of a result."""

from __future__ import annotations

import base64
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from idlegrid.actors.media.image import encode_png
from idlegrid.grid.job_types import job_type
from idlegrid.pipelines.image_gen import JOB_TYPE, ImageGenParams, ImageGenResult

PNG = base64.b64encode(encode_png(np.zeros((32, 24, 3), np.uint8))).decode()
RESULT = {"image_base64": PNG, "width": 24, "height": 32, "seed": 5, "format": "png"}
PARAMS = {"prompt": "a fox", "model": "some/model", "width": 24, "height": 32, "seed": 5}


def test_it_comes_through_the_register():
    assert job_type("image_gen") is JOB_TYPE


def test_the_defaults_are_those_of_the_contract():
    params = ImageGenParams(prompt="a fox")
    assert (params.width, params.height, params.steps, params.seed, params.negative_prompt) == (1024, 1024, *[None] * 3)
    assert params.wish().seed != params.wish().seed
    assert ImageGenParams(prompt="a fox", num_inference_steps=7).steps == 7
    assert ImageGenParams(prompt="a fox", num_inference_steps=7, steps=7).steps == 7


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"prompt": ""}, "prompt"),
        ({"width": 100}, "width"),
        ({"height": 8192}, "height"),
        ({"width": 4096, "height": 4096}, "more than 4,194,304 pixels"),
        ({"steps": 0}, "steps"),
        ({"steps": 150}, "more than the 100"),
        ({"steps": 3, "num_inference_steps": 4}, "they differ"),
        ({"num_inference_steps": "many"}, "steps"),
        ({"model": "z-image-turbo", "steps": 60}, "more than the 50"),
        ({"model": "sdxl", "width": 2048, "height": 2048}, "more than 2,359,296 pixels"),
        ({"model": "flux-schnell", "negative_prompt": "a dog"}, "negative_prompt"),
        ({"seed": -1}, "seed"),
        ({"guidance": 3}, "guidance"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(changes, what):
    with pytest.raises(ValidationError, match=what):
        ImageGenParams.model_validate(PARAMS | changes)


def test_the_ask_names_the_model_and_its_memory():
    ask = JOB_TYPE.ask(ImageGenParams(prompt="a fox"))
    assert (ask.type, ask.model, ask.gpu_memory_gb) == ("image_gen", "Tongyi-MAI/Z-Image-Turbo", 22.0)


def test_importing_it_brings_no_torch():
    code = "import sys, idlegrid.pipelines.image_gen as w; w.JOB_TYPE.ask(w.ImageGenParams(prompt='a'))"
    code += "; sys.exit(' '.join({'torch', 'dask', 'fastapi', 'diffusers', 'PIL'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"width": 32}, "32 × 32 pixels where 24 × 32"),
        ({"seed": 6}, "the seed 6 where 5"),
        ({"image_base64": "%%%"}, "no Base64"),
        ({"image_base64": base64.b64encode(b"GIF89a").decode()}, "no PNG"),
        ({"image_base64": base64.b64encode(encode_png(np.zeros((32, 32, 3), np.uint8))).decode()}, "24 × 32 RGB"),
    ],
)
def test_a_result_that_can_not_be_is_not_believed(changes, what):
    params = ImageGenParams.model_validate(PARAMS)
    JOB_TYPE.check(params, ImageGenResult.model_validate(RESULT))
    with pytest.raises(ValueError, match=what):
        JOB_TYPE.check(params, ImageGenResult.model_validate(RESULT | changes))
