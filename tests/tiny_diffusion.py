"""Tiny image generators with random weights, on disk: SD, SDXL, SD3, Flux and Z-Image.

Nothing comes from a hub. What they draw has no meaning, but every part is the real one: tokenizers, text encoders,
denoiser, scheduler, VAE. Imports torch, diffusers and transformers only when a model is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

KINDS = ("sd", "sdxl", "sd3", "flux", "zimage")
WIDTH = 32
"""Of the hidden states of the text encoders."""
PROMPTS = ("a red fox in the snow", "two boats", "an old clock, oil on canvas", "rain")


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion whose VAE halves twice: sizes are multiples of 4."""
    return build("sd", tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flux: it is not guided away from anything."""
    return build("flux", tmp_path_factory.mktemp("flux"))


def build(kind: str, folder: Path) -> Path:
    """Make one in `folder`: random weights, the same each time."""
    import torch
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for one in (logging, transformers_logging):
        one.disable_progress_bar()
        one.set_verbosity_error()
    torch.set_num_threads(1)
    torch.manual_seed(11)
    with warnings.catch_warnings(action="ignore"):
        _BUILDERS[kind]().save_pretrained(folder)
    return folder


def _sd() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(WIDTH),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = _clip_tokenizer()
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=_clip(),
        text_encoder_2=_clip(projection=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=8 * 6 + WIDTH,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        image_encoder=None,
        feature_extractor=None,
    )


def _sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = _clip_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, quant=False, shift_factor=0.0609),
        text_encoder=_clip(projection=True),
        tokenizer=tokenizer,
        text_encoder_2=_clip(projection=True),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5(2 * WIDTH),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(4, quant=False, shift_factor=0.1159),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(WIDTH),
        tokenizer_2=_t5_tokenizer(),
    )


def _zimage() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from language_model import build as build_llm
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    with TemporaryDirectory() as place:
        tokenizer = AutoTokenizer.from_pretrained(build_llm(Path(place)).folder, pad_token="<|end|>")
    qwen = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 4, 8],
            axes_lens=[256, 32, 32],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, quant=False, shift_factor=0.1159),
        text_encoder=Qwen3Model(qwen).eval(),
        tokenizer=tokenizer,
    )


_BUILDERS: dict[str, Callable[[], Any]] = {"sd": _sd, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux, "zimage": _zimage}


def _vae(channels: int, *, quant: bool = True, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        **more,
    ).eval()


def _unet(width: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        **more,
    ).eval()


def _clip(*, projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=WIDTH,
        bos_token_id=_vocabulary()["<|startoftext|>"],
        eos_token_id=_vocabulary()["<|endoftext|>"],
        pad_token_id=_vocabulary()["<|endoftext|>"],
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def _vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(one + "</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}


def _clip_tokenizer() -> Any:
    """One that knows letters and no merges."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=_vocabulary(), merges=[], model_max_length=77)


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(_t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()


def _t5_tokenizer() -> Any:
    from transformers import T5TokenizerFast

    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0)]
    letters += [(chr(code), -3.0) for code in range(ord("!"), ord("~") + 1)]
    return T5TokenizerFast(vocab=letters, extra_ids=0)
