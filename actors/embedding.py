"""An embedding model that stays loaded: tokens in, vectors out, as fast as this device allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from .batches import by_token_budget
from .devices import describe
from .encoders import Encoder, fast_bfloat16, openvino_available, openvino_encoder, torch_encoder
from .memory import keep_freed_memory
from .model_pins import own_code
from .models import resolve, revision

MIN_COSINE = 0.999
"""16-bit arithmetic is used only where every probe sentence keeps at least this cosine to fp32."""
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
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
    """In which the transformer computes: ``bfloat16`` or ``float32``."""
    min_cosine: float
    """Smallest cosine of the probe sentences to fp32 on this device; 1.0 for fp32 itself."""
    backend: str
    """``torch`` or ``openvino``."""
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
        self,
        model: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        backend: str = "auto",
        token_budget: int | None = None,
    ) -> None:
        """Load `model` (see `models.resolve`).

        `dtype`: auto, bfloat16 or float32. `device`: auto, cpu, cuda or cuda:n. `backend`: auto, torch or openvino
        (CPU only, extra `openvino`); auto takes the fastest that stays within MIN_COSINE of fp32.
        Raises ModelNotFound, or ValueError for an option that is not one of these or can't be had here.
        """
        _one_of("dtype", dtype, ("auto", *_DTYPES))
        _one_of("backend", backend, ("auto", "torch", "openvino"))
        self._device = torch.device(_pick_device(device))
        if backend == "openvino" and (self._device.type != "cpu" or not openvino_available()):
            raise ValueError("the backend openvino needs a CPU device and the extra: pip install 'idlegrid[openvino]'")
        folder = resolve(model)
        pipeline = _pipeline(model, folder, self._device)
        self._lock = threading.Lock()
        transformer, *head = pipeline
        self._head = [module for module in head if not _normalizes(module)]
        self._tokenizer = pipeline.tokenizer
        self._budget = token_budget or _BUDGETS[self._device.type]
        self._dimension = int(pipeline.get_embedding_dimension())
        self._max_tokens = int(pipeline.max_seq_length or self._tokenizer.model_max_length)
        self._encoder, min_cosine = self._choose_encoder(transformer, dtype, backend)
        self.facts = ModelFacts(
            model=model,
            revision=revision(folder),
            dimension=self._dimension,
            max_tokens=self._max_tokens,
            vocab_size=len(self._tokenizer),
            dtype=self._encoder.dtype,
            min_cosine=min_cosine,
            backend=self._encoder.backend,
            device=describe(self._device),
            versions={name: version(name) for name in _libraries(self._encoder.backend)},
        )

    def _choose_encoder(self, transformer: torch.nn.Module, dtype: str, backend: str) -> tuple[Encoder, float]:
        """The fastest allowed encoder that stays close to fp32, and how close its probe sentences stay."""
        exact = torch_encoder(transformer, self._device, torch.float32)
        if (dtype, backend) == ("float32", "torch"):
            return exact, 1.0
        self._encoder = exact
        reference = self.embed(_PROBE)
        for build in _candidates(transformer, self._device, dtype, backend):
            self._encoder = build()
            cosine = float((reference * self.embed(_PROBE)).sum(axis=1).min())
            if cosine >= MIN_COSINE or "auto" not in (dtype, backend):
                return self._encoder, min(1.0, cosine)
        return exact, 1.0

    def tokenize(self, texts: Sequence[str], *, truncate: bool = True) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to `facts.max_tokens` unless `truncate` is False."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts), truncation=truncate, max_length=self._max_tokens, padding=False, return_attention_mask=False
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
        kept = self._dimension if dimensions is None else dimensions
        if not 1 <= kept <= self._dimension:
            raise ValueError(f"dimensions must lie in 1..{self._dimension} for this model, not {dimensions}")
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
            hidden = self._encoder.forward(ids, mask)  # (B, T, H)
            features = {"token_embeddings": hidden, "attention_mask": mask.to(hidden.device)}
            for module in self._head:
                features = module(features)
            return features["sentence_embedding"].cpu()


def _candidates(
    transformer: torch.nn.Module, device: torch.device, dtype: str, backend: str
) -> Iterator[Callable[[], Encoder]]:
    """What to try beside plain fp32 torch, fastest first."""
    wanted = _DTYPES[dtype] if dtype in _DTYPES else torch.bfloat16 if fast_bfloat16(device) else torch.float32
    if backend != "torch" and device.type == "cpu" and openvino_available():
        yield lambda: openvino_encoder(transformer, wanted, torch.get_num_threads())
    if backend != "openvino":
        yield lambda: torch_encoder(transformer, device, wanted)


def _be_quiet() -> None:
    """No progress bars and no advice in the logs of a worker."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _libraries(backend: str) -> Sequence[str]:
    libraries = ("torch", "transformers", "sentence-transformers")
    return libraries if backend == "torch" else (*libraries, backend)


def _pipeline(model: str, folder: Path, device: torch.device) -> Any:
    """The `SentenceTransformer` in a folder, ready to compute."""
    from sentence_transformers import SentenceTransformer  # seconds, that whoever can not have it need not wait

    _be_quiet()
    keep_freed_memory()
    with own_code(model, folder) as trusted:
        return SentenceTransformer(
            str(folder),
            device=str(device),
            model_kwargs={"use_safetensors": True},
            local_files_only=True,
            trust_remote_code=trusted,
        ).eval()


def _normalizes(module: Any) -> bool:
    """Whether it is the layer that scales vectors to length 1: callers say whether they want that."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    return isinstance(module, Normalize)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def _pick_device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.split(":")[0] not in _BUDGETS:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:n, not {wanted!r}")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {wanted!r}, but torch finds no CUDA device here: check the driver, or say cpu")
    return wanted
