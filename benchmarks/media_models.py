"""Models with random weights in the shape of real ones, and recordings: what `media.py` measures with."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
BYTES, WORDS = 256, 50_257
"""Of Whisper's vocabulary: characters, and all text tokens."""


def whisper(folder: Path, tokens: int) -> None:
    """The shape of whisper-tiny (39 M parameters, 99 languages), which says `tokens` tokens of every 30 s.

    Its last layer is loud, so that text is likelier than timestamps as in a trained model; it never ends by itself, so
    that whoever uses it computes the same number of tokens.
    """
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.manual_seed(7)
    tokenizer, languages = _tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    end, first_time = ids("<|endoftext|>"), ids("<|0.00|>")
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    special |= {"decoder_start_token_id": ids("<|startoftranscript|>")}
    config = WhisperConfig(vocab_size=len(tokenizer), suppress_tokens=None, begin_suppress_tokens=None, **special)
    _tiny(config)
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "embed_positions" not in name:
                torch.nn.init.normal_(parameter, 0.0, 0.05)
        model.model.decoder.embed_tokens.weight[first_time:].mul_(0.3)
        model.model.encoder.layer_norm.weight.mul_(3.0)
        model.model.decoder.layer_norm.weight.mul_(6.0)
    model.generation_config = GenerationConfig(
        max_length=tokens + 4,
        max_initial_timestamp_index=50,
        no_timestamps_token_id=first_time - 1,
        prev_sot_token_id=ids("<|startofprev|>"),
        is_multilingual=True,
        alignment_heads=[[2, 2], [3, 0]],
        suppress_tokens=list(range(end, first_time)),
        begin_suppress_tokens=[end],
        lang_to_id={f"<|{one}|>": ids(f"<|{one}|>") for one in languages},
        task_to_id={one: ids(f"<|{one}|>") for one in ("transcribe", "translate")},
        **special,
    )
    for part in (model, tokenizer, WhisperFeatureExtractor()):
        part.save_pretrained(folder)


def _tiny(config: Any) -> None:
    """whisper-tiny's numbers: config.json of openai/whisper-tiny."""
    config.d_model = 384
    config.encoder_layers = config.decoder_layers = 4
    config.encoder_attention_heads = config.decoder_attention_heads = 6
    config.encoder_ffn_dim = config.decoder_ffn_dim = 1536


def _tokenizer() -> tuple[Any, list[str]]:
    """As many tokens as Whisper's, and its languages."""
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    languages = list(LANGUAGES)[:99]
    vocabulary = {one: index for index, one in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {f"Ġw{index}": index for index in range(BYTES, WORDS)}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    more = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    special = [f"<|{one}|>" for one in ("startoftranscript", *languages, *more)]
    tokenizer.add_special_tokens({"additional_special_tokens": special, "pad_token": "<|endoftext|>"})
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * step:.2f}|>") for step in range(1501)])
    return tokenizer, languages


def lengths(count: int, seed: int = 3) -> NDArray[np.float64]:
    """Seconds of recordings: log-normal around 12, from 2 to 120."""
    drawn = np.random.default_rng(seed).lognormal(np.log(12), 1.0, count)
    found: NDArray[np.float64] = np.clip(drawn, 2, 120)
    return found


def recordings(seconds: Sequence[float], seed: int = 3) -> list[bytes]:
    """FLAC files of syllables in sentences of 2 to 6 s, with pauses between them."""
    import soundfile

    draw = np.random.default_rng(seed)
    found = []
    for one in seconds:
        file = io.BytesIO()
        soundfile.write(file, _speech(one, draw), RATE, format="FLAC")
        found.append(file.getvalue())
    return found


def _speech(seconds: float, draw: np.random.Generator) -> NDArray[np.float32]:
    samples = round(seconds * RATE)
    pitch = np.repeat(draw.uniform(90, 900, samples // 2400 + 1), 2400)[:samples]
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    loud, at = np.ones(samples), 0
    while at < samples:
        at += int(draw.uniform(2, 6) * RATE)
        pause = int(draw.uniform(0.3, 0.8) * RATE)
        loud[at : at + pause] = 0
        at += pause
    voice = 0.2 * loud * (np.sin(phase) + 0.5 * np.sin(2 * phase))
    return (voice + 0.001 * draw.standard_normal(samples)).astype(np.float32)


def diffusion(folder: Path) -> None:
    """A Stable Diffusion whose denoiser has 13 M parameters; the rest of it is the tests' tiny one."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import tiny_diffusion
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    tiny_diffusion.build("sd", folder)
    pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipe.unet = UNet2DConditionModel(
        block_out_channels=(96, 192),
        layers_per_block=2,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=tiny_diffusion.WIDTH,
        attention_head_dim=8,
    ).eval()
    pipe.save_pretrained(folder)
