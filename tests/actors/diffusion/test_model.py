"""The resident image generator against diffusers itself, on the same tiny weights."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_diffusion import KINDS, PROMPTS, build

from idlegrid.actors.diffusion.model import DiffusionModel
from idlegrid.actors.diffusion.picture import NotDrawn, Wish
from idlegrid.actors.models import ModelNotFound
from idlegrid.grid.catalogue import ImageRules
from idlegrid.grid.job_types import Cancelled

pytestmark = pytest.mark.slow
WISHES = [Wish(prompt=text, width=32, height=48, steps=3, seed=seed) for seed, text in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def model(tiny_sd):
    return DiffusionModel(str(tiny_sd))


def by_diffusers(folder, wishes, **more):
    """The pictures of diffusers' own pipeline, one call each, as its documentation shows it."""
    with warnings.catch_warnings(action="ignore"):
        from diffusers import AutoPipelineForText2Image

        pipe = AutoPipelineForText2Image.from_pretrained(folder, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return [
            np.asarray(
                pipe(
                    wish.prompt,
                    width=wish.width,
                    height=wish.height,
                    num_inference_steps=wish.steps,
                    generator=torch.Generator("cpu").manual_seed(wish.seed),
                    **({"negative_prompt": wish.negative_prompt} if wish.negative_prompt else {}),
                    **more,
                ).images[0]
            )
            for wish in wishes
        ]


def equal_but_for_rounding(one, other):
    """What a batch may change: one level, in few places."""
    apart = np.abs(one.astype(int) - other)
    return apart.max() <= 1 and (apart > 0).mean() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_what_diffusers_draws_alone_and_in_a_batch(kind, tmp_path):
    folder = build(kind, tmp_path)
    model = DiffusionModel(str(folder))
    expected = by_diffusers(folder, WISHES)
    found = model.draw(WISHES)
    assert all(np.array_equal(one.pixels, other) for one, other in zip(found, expected, strict=True))
    assert [one.pixels.shape for one in found] == [(48, 32, 3)] * 4
    assert model.facts.multiple == (4 if kind.startswith("sd") and kind != "sd3" else 8)
    assert model.facts.negative == (kind != "flux")
    together = DiffusionModel(str(folder), batch=3).draw(WISHES)
    assert all(equal_but_for_rounding(one.pixels, other) for one, other in zip(together, expected, strict=True))
    assert not equal_but_for_rounding(found[0].pixels, found[1].pixels), "else nothing would be compared"


def test_a_seed_makes_the_picture(model):
    [first, again, other] = model.draw([WISHES[0], WISHES[0], replace(WISHES[0], seed=9)])
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    state = torch.random.get_rng_state()
    model.draw(WISHES[:1])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_negative_prompt_is_what_diffusers_makes_of_it(model, tiny_sd):
    wish = replace(WISHES[0], negative_prompt="a dog")
    [plain, against] = model.draw([WISHES[0], wish])
    assert np.array_equal(against.pixels, by_diffusers(tiny_sd, [wish])[0])
    assert not np.array_equal(plain.pixels, against.pixels)


def test_sizes_and_steps_of_a_call_may_differ(model):
    wishes = [*WISHES, replace(WISHES[0], width=48), replace(WISHES[1], steps=2)]
    found = model.draw(wishes)
    assert [one.pixels.shape[1] for one in found] == [32] * 4 + [48, 32]
    assert np.array_equal(found[5].pixels, model.draw(wishes[5:])[0].pixels)


def test_steps_are_told_and_a_cancel_is_heard_between_two(model):
    told, asked = [], []
    model.draw(WISHES[:2], told=lambda *how_far: told.append(how_far), check=lambda: asked.append(1))
    assert told == [(done, 6) for done in range(1, 7)]
    left = iter(range(len(asked) // 2))

    def check():
        if next(left, None) is None:
            raise Cancelled

    seen = []
    with pytest.raises(Cancelled):
        model.draw(WISHES[:2], check=check, told=lambda done, total: seen.append(done))
    assert max(seen) <= 4
    assert model.draw(WISHES[:1]), "and the model still works"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"width": 34}, "must be multiples of 4"),
        ({"width": 4096, "height": 4096}, "more than the 4,194,304 pixels"),
        ({"steps": 101}, "at most 100"),
    ],
)
def test_what_it_can_not_do_is_refused_alone(model, changes, why):
    [refused, other] = model.draw([replace(WISHES[0], **changes), WISHES[1]])
    assert isinstance(refused, NotDrawn)
    assert refused.refused
    assert why in refused.why
    assert np.array_equal(other.pixels, model.draw(WISHES[1:2])[0].pixels)


def test_limits_and_guidance_are_the_catalogues(tiny_sd, monkeypatch):
    model = DiffusionModel(str(tiny_sd))
    model._rules = ImageRules(guidance=0.0)
    assert not model._guided_away()
    [found] = model.draw(WISHES[:1])
    assert np.array_equal(found.pixels, by_diffusers(tiny_sd, WISHES[:1], guidance_scale=0.0)[0])


def test_numbers_that_are_none_are_no_picture(tiny_sd):
    model = DiffusionModel(str(tiny_sd))
    with torch.no_grad():
        next(model._pipe.vae.decoder.conv_out.parameters()).fill_(float("nan"))
    [found] = model.draw(WISHES[:1])
    assert isinstance(found, NotDrawn)
    assert not found.refused
    assert "NaN" in found.why


def test_weights_that_are_no_safetensors(tiny_sd, tmp_path):
    import shutil

    shutil.copytree(tiny_sd, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        DiffusionModel(str(tmp_path))


def test_what_is_no_pipeline(language_model):
    with pytest.raises(ModelNotFound, match=r"no model_index\.json"):
        DiffusionModel(str(language_model.folder))


def test_no_safety_checker_is_looked_for(tiny_sd, tmp_path):
    import json
    import shutil

    shutil.copytree(tiny_sd, tmp_path, dirs_exist_ok=True)
    index = tmp_path / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}))
    assert DiffusionModel(str(tmp_path)).draw(WISHES[:1])
