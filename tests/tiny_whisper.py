"""A tiny Whisper with random weights and a tokenizer of its own, on disk; recordings to give it.

Nothing comes from a hub. What it hears has no meaning, but every part is the real one: mel spectrogram, language
tokens, timestamps, cross-attention heads for words. Imports torch and transformers only when a model is made.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

RATE = 16_000
LANGUAGES = ("en", "de", "zh")
WORDS = " a lease that nobody renews can be claimed again by the next worker, and a fence keeps the late one out."


@dataclass(frozen=True)
class TinyWhisper:
    """A model on disk (fp32), and transformers' own, to compare with."""

    folder: Path
    peer: Any
    tokenizer: Any
    features: Any
    """The feature extractor."""

    def inputs(self, *clips: NDArray[np.float32], long: bool = False) -> dict[str, Any]:
        """What transformers' documentation gives to `generate`, for short clips or long ones."""
        more = {"truncation": False, "padding": "longest"} if long else {}
        found = self.features(list(clips), sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, **more)
        return dict(found)

    def text(self, *clips: NDArray[np.float32], long: bool = False, **options: Any) -> list[str]:
        """transformers' own transcription of clips."""
        import torch

        with torch.inference_mode():
            ids = self.peer.generate(**self.inputs(*clips, long=long), return_timestamps=True, **options)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> TinyWhisper:
    """One that hears 3 s at a time."""
    return build(tmp_path_factory.mktemp("whisper"))


def build(folder: Path, *, seconds: int = 3, multilingual: bool = True) -> TinyWhisper:
    """Make one in `folder`: random weights, the same each time. `seconds`: of its window; 30 in real ones."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    tokenizer = _tokenizer(seconds)
    ids = tokenizer.convert_tokens_to_ids
    end, first_time = ids("<|endoftext|>"), ids("<|0.00|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=50 * seconds,
        max_target_positions=64,
        decoder_start_token_id=ids("<|startoftranscript|>"),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    peer = WhisperForConditionalGeneration(config).eval()
    for name, parameter in peer.named_parameters():
        if "norm" not in name and "embed_positions" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    with torch.no_grad():
        # a trained model looks at the sound: strong cross-attention, and an end that comes before the window's
        peer.model.encoder.layer_norm.weight.mul_(3.0)
        peer.model.decoder.embed_tokens.weight[first_time:].mul_(0.7)
    peer.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=24,
        max_initial_timestamp_index=25,
        no_timestamps_token_id=first_time - 1,
        prev_sot_token_id=ids("<|startofprev|>"),
        is_multilingual=multilingual,
        alignment_heads=[[0, 0], [1, 1]],
        suppress_tokens=[one for one in range(end, first_time) if one != end],
        begin_suppress_tokens=[end],
        return_timestamps=False,
        **(
            {
                "lang_to_id": {f"<|{one}|>": ids(f"<|{one}|>") for one in LANGUAGES},
                "task_to_id": {one: ids(f"<|{one}|>") for one in ("transcribe", "translate")},
            }
            if multilingual
            else {}
        ),
    )
    features = WhisperFeatureExtractor(chunk_length=seconds)
    peer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    features.save_pretrained(folder)
    return TinyWhisper(folder, peer, tokenizer, features)


def _tokenizer(seconds: int) -> Any:
    import json

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import WhisperTokenizer

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(learned.to_str())["model"]
    tokenizer = WhisperTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{one}|>" for one in LANGUAGES),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * step:.2f}|>") for step in range(50 * seconds + 1)])
    return tokenizer


def tone(seconds: float, *, seed: int = 0, loud: float = 0.3) -> NDArray[np.float32]:
    """Something to hear: syllables of changing pitch, with no pause between them. (n,) at 16 kHz."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = np.repeat(draw.uniform(90, 900, len(time) // 2400 + 1), 2400)[: len(time)]
    wave = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.5 * np.sin(4 * np.pi * np.cumsum(pitch) / RATE)
    return (loud * wave / 1.5 + 0.003 * draw.standard_normal(len(time))).astype(np.float32)


def silence(seconds: float, *, seed: int = 0) -> NDArray[np.float32]:
    """A quiet room. (n,) at 16 kHz."""
    return (1e-4 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def as_file(samples: NDArray[np.float32], kind: str = "wav", rate: int = RATE) -> bytes:
    """A recording as a file's content: wav, flac, mp3 or ogg by soundfile, m4a by av."""
    if kind == "m4a":
        return _m4a(samples, rate)
    import soundfile

    into = io.BytesIO()
    soundfile.write(into, samples, rate, format=kind.upper())
    return into.getvalue()


def _m4a(samples: NDArray[np.float32], rate: int) -> bytes:
    import av

    into = io.BytesIO()
    with av.open(into, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return into.getvalue()
