"""Tiny models that need a module of their own to be loaded. The modules are harmless: each says that it ran."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

RAN = "THE_CODE_OF_A_MODEL_RAN"
"""Set in the environment by each of the modules."""
SAYS = f"import os\n\nos.environ[{RAN!r}] = 'yes'\n\n"


def forget() -> None:
    """Nothing ran yet."""
    os.environ.pop(RAN, None)


def ran() -> bool:
    return RAN in os.environ


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def change(path: Path, **fields: Any) -> None:
    """Fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def of_transformers(source: Path, folder: Path, *, config: str, model: str, auto: str) -> Path:
    """A model of transformers' classes `config` and `model`, as a kind that transformers does not know."""
    copied(source, folder)
    kind = f"own_{auto.lower()}"
    module = f"{SAYS}from transformers import {config}, {model}\n\n\n"
    module += f"class OwnConfig({config}):\n    model_type = {kind!r}\n\n\n"
    module += f"class OwnModel({model}):\n    config_class = OwnConfig\n"
    (folder / "modeling_own.py").write_text(module)
    mapped = {"AutoConfig": "modeling_own.OwnConfig", auto: "modeling_own.OwnModel"}
    change(folder / "config.json", model_type=kind, architectures=["OwnModel"], auto_map=mapped)
    return folder


def of_diffusers(source: Path, folder: Path, pipeline: str) -> Path:
    """A pipeline of diffusers', as one that comes with the model."""
    copied(source, folder)
    (folder / "own_pipeline.py").write_text(
        f"{SAYS}from diffusers import {pipeline}\n\n\nclass OwnPipeline({pipeline}):\n    pass\n"
    )
    change(folder / "model_index.json", _class_name=["own_pipeline", "OwnPipeline"])
    return folder


def of_sentences(folder: Path) -> Path:
    """A sentence-transformers model that pools in a way of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    inner = folder.with_name(f"{folder.name}-inner")
    inner.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (inner / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(inner)
    BertTokenizerFast(vocab_file=str(inner / "vocab.txt")).save_pretrained(inner)
    transformer = Transformer(str(inner))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(folder))
    (folder / "own_pooling.py").write_text(
        f"{SAYS}from sentence_transformers.sentence_transformer.modules import Pooling\n\n\n"
        "class OwnPooling(Pooling):\n    pass\n"
    )
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own_pooling.OwnPooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder
