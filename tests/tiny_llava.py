"""A tiny LLaVA with random weights and a tokenizer of its own, on disk; pictures to show it.

Nothing comes from a hub. What it says has no meaning, but every part is the real one: image processor, vision tower,
projector, language model, chat template. Imports torch and transformers only when a model is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_model import SPECIAL, _tokenizer
from numpy.typing import NDArray

SIDE = 32
"""Pixels of a side that the vision tower sees, in patches of 8."""
CONTEXT = 256
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image>\n{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class TinyLlava:
    """A model on disk (fp32), and transformers' own, to compare with."""

    folder: Path
    peer: Any
    processor: Any

    def answer(self, text: str, images: Sequence[Pixels], new: int, **options: Any) -> str:
        """transformers' own answer to a prompt that is written out, as its documentation shows it."""
        import torch
        from PIL import Image

        shown = [Image.fromarray(one) for one in images] or None
        inputs = self.processor(text=[text], images=shown, return_tensors="pt")
        with torch.inference_mode():
            ids = self.peer.generate(**inputs, max_new_tokens=new, **{"do_sample": False, **options})
        said: str = self.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return said

    def asked(self, question: str) -> str:
        """A question about one picture, as the chat template writes it."""
        return f"<|user|><image>\n{question}<|end|><|assistant|>"


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> TinyLlava:
    """One that sees 16 patches of a picture."""
    return build(tmp_path_factory.mktemp("llava"))


def build(folder: Path) -> TinyLlava:
    """Make one in `folder`: random weights, the same each time."""
    with warnings.catch_warnings(action="ignore"):
        return _build(folder)


def _build(folder: Path) -> TinyLlava:
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.manual_seed(5)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), eos_token=SPECIAL[0], pad_token=SPECIAL[0])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=image,
        image_token_id=image,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(SIDE // 8) ** 2,
    )
    peer = LlavaForConditionalGeneration(config).eval()
    for name, parameter in peer.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
    peer.generation_config.eos_token_id = tokenizer.eos_token_id
    peer.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    peer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return TinyLlava(folder, peer, processor)


def scene(seed: int = 0, height: int = 40, width: int = 56) -> Pixels:
    """A picture to look at: coloured fields. (H, W, 3)."""
    fields = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.ascontiguousarray(fields.repeat(8, 0).repeat(8, 1))


def as_png(pixels: Pixels) -> bytes:
    """A picture as a file's content."""
    from PIL import Image

    into = BytesIO()
    Image.fromarray(pixels).save(into, "PNG")
    return into.getvalue()
