"""Our engine: continuous batching over paged stages of torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise

import torch

from ..encoders import fast_bfloat16
from ..memory import keep_freed_memory
from ..models import resolve, revision
from .chain import LocalChain
from .codec import Codec
from .core import EngineCore
from .engine_face import EngineFacts
from .families import Architecture, architecture
from .sequencer import Sequencer
from .sequencer_config import SequencerConfig
from .stage import Stage
from .threaded import Loaded, ThreadedEngine

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchOptions:
    """Sizes of a torch engine. The defaults suit a small model on a CPU."""

    dtype: str = "auto"
    """auto, float32, bfloat16, float16 or float64; auto: bfloat16 where it is fast, else float32."""
    device: str = "cpu"
    kv_cache_gb: float = 1.0
    """Memory for keys and values of all sequences."""
    num_blocks: int | None = None
    """Instead of `kv_cache_gb`: pages."""
    block_size: int = 16
    max_batched_tokens: int = 512
    max_sequences: int = 64
    max_context: int | None = None
    """Tokens of one sequence, prompt included. None: what the model was trained for."""
    chunk: int | None = 256
    """Tokens of one prompt in one step: bounds how long others wait for their next token."""
    queue_limit: int = 1024
    """Requests that may wait."""
    prefix_cache: bool = True
    cuts: tuple[int, ...] = ()
    """Layers at which the model is cut into stages, all on this device: for tests and measurements."""


class TorchEngine(ThreadedEngine):
    """One model on this machine. See `Engine` for what it promises."""

    def __init__(self, model: str, options: TorchOptions | None = None) -> None:
        """`model`: see `models.resolve`. Nothing is loaded before `start`."""
        self._model = model
        self._options = options or TorchOptions()
        super().__init__(model, slots=self._options.max_sequences, queue_limit=self._options.queue_limit)

    def _load(self) -> Loaded:
        options, folder = self._options, resolve(self._model)
        keep_freed_memory()
        shape = architecture(folder)
        dtype = pick_dtype(options)
        blocks = options.num_blocks or _blocks_in(options, shape, dtype)
        stages = [
            Stage(
                folder,
                range(start, stop),
                dtype=DTYPES[dtype],
                device=options.device,
                num_blocks=blocks,
                block_size=options.block_size,
            )
            for start, stop in pairwise((0, *options.cuts, shape.num_layers))
        ]
        codec, identity = Codec.load(folder, self._model), revision(folder)
        sequencer = Sequencer(sequencer_config(options, blocks, shape, identity))
        facts = EngineFacts(
            model=self._model,
            revision=identity,
            context=sequencer.config.context,
            vocab_size=shape.vocab,
            dtype=dtype,
            backend="torch",
            device=options.device,
            eos_ids=codec.eos_ids,
            versions={"torch": version("torch"), "tokenizers": version("tokenizers")},
        )
        return Loaded(EngineCore(sequencer, LocalChain(stages)), codec, facts)


def pick_dtype(options: TorchOptions) -> str:
    """What is computed in on this machine. Raises ValueError for a dtype that is none."""
    if options.dtype == "auto":
        return "bfloat16" if fast_bfloat16(torch.device(options.device)) else "float32"
    if options.dtype not in DTYPES:
        raise ValueError(f"dtype must be auto or one of {', '.join(DTYPES)}, not {options.dtype!r}")
    return options.dtype


def _blocks_in(options: TorchOptions, shape: Architecture, dtype: str) -> int:
    """Pages that fit into the memory for keys and values."""
    per_token = 2 * shape.num_layers * shape.kv_heads * shape.head_dim * DTYPES[dtype].itemsize
    blocks = int(options.kv_cache_gb * 1e9 / (per_token * options.block_size))
    if blocks < 1:
        raise ValueError(f"kv_cache_gb={options.kv_cache_gb} is too little: a page of this model takes more")
    longest = options.max_context or shape.max_positions
    return min(blocks, options.max_sequences * -(-longest // options.block_size))


def sequencer_config(options: TorchOptions, blocks: int, shape: Architecture, identity: str) -> SequencerConfig:
    """The sizes of the sequencer of an engine with these options and so many pages. `identity`: of the weights."""
    return SequencerConfig(
        num_blocks=blocks,
        block_size=options.block_size,
        max_batched_tokens=options.max_batched_tokens,
        max_sequences=options.max_sequences,
        max_context=min(options.max_context or shape.max_positions, shape.max_positions),
        chunk=options.chunk,
        prefix_cache=options.prefix_cache,
        revision=identity,
    )
