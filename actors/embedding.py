"""An embedding model that stays loaded: tokens in, vectors out, as fast as this device allows."""

from __future__ import annotations

import copy
import os
import platform
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from .batches import by_token_budget
from .models import resolve, revision

MIN_COSINE = 0.999
"""A 16-bit copy of the weights is used only where every probe sentence keeps at least this cosine to fp32."""
_BUDGETS = {"cpu": 512, "cuda": 32_768}
"""Tokens per batch: on a CPU what stays in cache, on a GPU what fills it."""
_PROBE = (
    "A lease that nobody renews is claimable again.",
    "def gather(self, futures, errors='raise'): ...",
    "Der Zug fährt um 17:45 Uhr von Gleis 3 ab.",
    "短い文章です。",
    "0.1 + 0.2 != 0.3",
    "no",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "¿Cuánto cuesta una habitación con vistas al mar en agosto?",
)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What produced a vector, for provenance."""

    model: str
    """The id that was asked for."""
    revision: str
    """SHA-256 (16 hex digits) of configuration and weights."""
    dimension: int
    """Length of a full vector."""
    max_tokens: int
    """Longer texts are truncated to this, special tokens included."""
    vocab_size: int
    dtype: str
    """Of the weights: ``bfloat16`` or ``float32``."""
    min_cosine: float
    """Smallest cosine of the probe sentences to fp32 on this device; 1.0 for fp32 itself."""
    device: str
    """``cpu`` or ``cuda:0``, with the name of the processor."""
    versions: dict[str, str]
    """Of the libraries that compute."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class EmbeddingModel:
    """A sentence-transformers model whose transformer runs in batches of similar length, 16-bit where that is harmless.

    The pipeline (pooling, dense layers, normalisation) is the one saved with the model; everything behind the
    transformer is computed in fp32. Thread-safe: one batch computes at a time, tokenising runs beside it.
    """

    def __init__(
        self, model: str, *, dtype: str = "auto", device: str = "auto", token_budget: int | None = None
    ) -> None:
        """Load `model` (see `models.resolve`). `dtype`: auto, bfloat16 or float32. `device`: auto, cpu, cuda, cuda:n.

        Raises ModelNotFound, or ValueError for a dtype or device that is not known.
        """
        if dtype not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"dtype must be auto, bfloat16 or float32, not {dtype!r}")
        folder = resolve(model)
        self._device = torch.device(_pick_device(device))
        self._lock = threading.Lock()
        self._pipeline = SentenceTransformer(
            str(folder), device=str(self._device), model_kwargs={"use_safetensors": True}, local_files_only=True
        ).eval()
        self._transformer, *self._head = self._pipeline
        self._tokenizer = self._pipeline.tokenizer
        self._max_tokens = int(self._pipeline.max_seq_length or self._tokenizer.model_max_length)
        self._budget = token_budget or _BUDGETS[self._device.type]
        chosen, min_cosine = self._choose_dtype(dtype)
        self.facts = ModelFacts(
            model=model,
            revision=revision(folder),
            dimension=int(self._pipeline.get_embedding_dimension()),
            max_tokens=self._max_tokens,
            vocab_size=len(self._tokenizer),
            dtype=chosen,
            min_cosine=min_cosine,
            device=_describe(self._device),
            versions={name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
        )

    def _choose_dtype(self, wanted: str) -> tuple[str, float]:
        """Move the transformer to the dtype to use, and say how close it stays to fp32."""
        if wanted == "float32" or (wanted == "auto" and not _fast_bfloat16(self._device)):
            return "float32", 1.0
        reference, exact = self.embed(_PROBE), self._transformer
        self._transformer = copy.deepcopy(exact).to(torch.bfloat16)
        cosine = float((reference * self.embed(_PROBE)).sum(axis=1).min())
        if wanted == "auto" and cosine < MIN_COSINE:
            self._transformer = exact
            return "float32", 1.0
        self._pipeline[0] = self._transformer  # lets go of the fp32 weights
        return "bfloat16", cosine

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, truncated to `facts.max_tokens`."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=self._max_tokens, padding=False, return_attention_mask=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def embed_tokens(
        self, ids: Sequence[Sequence[int]], *, normalize: bool = True, dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """Vectors of tokenised texts, (n, d) float32, in input order; d is `dimensions` or the model's own.

        `dimensions` keeps the first values of each vector (Matryoshka) and normalises them again if asked to.
        Raises ValueError when `dimensions` is larger than the model's or a text has no token.
        """
        width = self._pipeline.get_embedding_dimension()
        kept = width if dimensions is None else dimensions
        if not 1 <= kept <= width:
            raise ValueError(f"dimensions must lie in 1..{width} for this model, not {dimensions}")
        lengths = [len(one) for one in ids]
        if 0 in lengths:
            raise ValueError(f"text {lengths.index(0)} has no token")
        vectors = np.empty((len(ids), kept), dtype=np.float32)
        for batch in by_token_budget(lengths, self._budget):
            vectors[batch] = self._forward([ids[index] for index in batch])[:, :kept].numpy()
        if normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def embed(
        self, texts: Sequence[str], *, normalize: bool = True, dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """`tokenize`, then `embed_tokens`."""
        return self.embed_tokens(self.tokenize(texts), normalize=normalize, dimensions=dimensions)

    def _forward(self, batch: list[Sequence[int]]) -> torch.Tensor:
        """One padded batch through the whole pipeline. Returns (n, d) fp32 on the CPU, not normalised."""
        longest = max(len(one) for one in batch)
        ids = torch.full((len(batch), longest), int(self._tokenizer.pad_token_id or 0))  # (B, T)
        mask = torch.zeros((len(batch), longest), dtype=torch.int64)
        for row, one in enumerate(batch):
            ids[row, : len(one)] = torch.as_tensor(one)
            mask[row, : len(one)] = 1
        with self._lock, torch.inference_mode():
            features = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
            features = self._transformer(features)
            features["token_embeddings"] = features["token_embeddings"].float()
            for module in self._head:
                if not isinstance(module, Normalize):
                    features = module(features)
            embedding: torch.Tensor = features["sentence_embedding"]
            return embedding.float().cpu()


def _pick_device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.split(":")[0] not in _BUDGETS:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:n, not {wanted!r}")
    return wanted


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than fp32 there: in silicon, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)"
