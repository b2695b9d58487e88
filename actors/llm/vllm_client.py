"""The only module that imports vLLM: its `AsyncLLM`, started, asked, stopped. Imports without it; `launch` needs it.

Every name that is used here is checked against the real package by `scripts/test-vllm`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .engine_face import EngineClosed
from .request import RequestRefused
from .threaded import Counts

NO_VLLM = "the vllm engine needs vLLM on this machine: pip install 'idlegrid[worker,vllm]' (an NVIDIA GPU and Linux)"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """Sizes of a vLLM engine. The defaults are SPEC's for a GPU that this engine has to itself."""

    dtype: str = "auto"
    """auto (the checkpoint's own), float32, bfloat16 or float16."""
    device: str = "cuda"
    """cuda, or cuda:N for one of several."""
    gpu_memory_utilization: float = 0.85
    """Share of the GPU's memory that weights, activations, keys and values may take together."""
    max_sequences: int = 256
    max_context: int | None = None
    """Tokens of one sequence, prompt included. None: what the model was trained for."""
    max_batched_tokens: int | None = None
    """Tokens of one step. None: vLLM's choice."""
    queue_limit: int = 1024
    """Requests that may wait."""
    prefix_cache: bool = True
    tensor_parallel: int = 1
    """GPUs of this machine that share each layer."""
    enforce_eager: bool = False
    """No CUDA graphs: starts sooner, decodes slower."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of `vllm.AsyncEngineArgs`, passed on as they are: quantization, kv_cache_dtype, …"""

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be auto, float32, bfloat16 or float16 for vLLM, not {self.dtype!r}")
        kind, _, index = self.device.partition(":")
        if kind != "cuda" or not (index.isdecimal() or self.device == "cuda"):
            raise ValueError(f"the vllm engine computes on device 'cuda' or 'cuda:N', not on {self.device!r}")
        if reserved := set(self.more) & set(engine_fields(Path(), self)):
            raise ValueError(f"options.more must not have {', '.join(sorted(reserved))}: the engine sets that itself")


def engine_fields(folder: Path, options: VllmOptions) -> dict[str, Any]:
    """`vllm.AsyncEngineArgs` for the model in `folder`, as plain values."""
    index = options.device.partition(":")[2]
    return {
        "model": str(folder),
        "dtype": options.dtype,
        "device_ids": [int(index)] if index else None,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_seqs": options.max_sequences,
        "max_model_len": options.max_context,
        "max_num_batched_tokens": options.max_batched_tokens,
        "enable_prefix_caching": options.prefix_cache,
        "tensor_parallel_size": options.tensor_parallel,
        "enforce_eager": options.enforce_eager,
        "scheduling_policy": "priority",
        "structured_outputs_config": {"backend": "guidance"},  # llguidance, as our own engine
        "generation_config": "vllm",  # the model's own defaults must not change what was asked for
        "trust_remote_code": False,
        "load_format": "safetensors",
        "disable_log_stats": True,  # the meter is told nevertheless
        "enable_log_requests": False,  # prompts are nobody's business
    }


class Meter:
    """How busy vLLM was after its last step: a stat logger of `AsyncLLM`, told in the event loop."""

    def __init__(self) -> None:
        self.counts = Counts()

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> Meter:
        """vLLM calls a factory, once for each engine core; we run one."""
        return self

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """A step is over. `scheduler_stats` is None if nothing was scheduled."""
        if (s := scheduler_stats) is not None:
            waiting = s.num_waiting_reqs + s.num_skipped_waiting_reqs
            self.counts = Counts(s.num_running_reqs, waiting, s.kv_cache_usage)

    def log(self) -> None:
        """We read `counts`; nothing is written."""

    def log_engine_initialized(self) -> None:
        """The same."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """We never put it to sleep."""


class Client(Protocol):
    """What `VllmEngine` needs of vLLM."""

    @property
    def context(self) -> int:
        """Tokens of a sequence at most."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""

    @property
    def dtype(self) -> str:
        """Of weights and activations."""

    @property
    def broken(self) -> bool:
        """It will never answer again."""

    async def ready(self) -> None:
        """Wait for the first sign of life, in the loop that will read the answers."""

    def generate(
        self, prompt: dict[str, Any], sampling: dict[str, Any], request_id: str, *, priority: int
    ) -> AsyncGenerator[Any, None]:
        """`RequestOutput`s with what is new in each. Closing it, or cancelling who reads it, aborts.

        Raises RequestRefused, EngineClosed, or what vLLM raises when this request alone has failed.
        """

    async def abort(self, request_id: str) -> None:
        """End a request; what is over or unknown is ignored."""

    def shutdown(self) -> None:
        """End the processes and give the GPU back. Blocks."""


class AsyncLlmClient:
    """A `Client` of the real one. vLLM computes in processes of its own; here are only sockets."""

    def __init__(self, folder: Path, options: VllmOptions, meter: Meter) -> None:
        """Loads the model: takes up to minutes, and needs no event loop. Raises ImportError without vLLM, ValueError
        where it finds no GPU, and what vLLM raises."""
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # a donor's machine tells nobody what it runs
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a worker has threads: forking it may hang
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ModuleNotFoundError as error:
            raise ImportError(f"{NO_VLLM}. What is missing: {error}") from error
        if current_platform.device_type != "cuda":
            raise ValueError(f"vLLM finds no device of kind 'cuda' here (it says {current_platform.device_type!r})")
        arguments = AsyncEngineArgs(**engine_fields(folder, options), **options.more)
        self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[meter])

    @property
    def context(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def vocab_size(self) -> int:
        return int(self._llm.model_config.get_vocab_size())

    @property
    def dtype(self) -> str:
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    @property
    def broken(self) -> bool:
        return bool(self._llm.errored)

    async def ready(self) -> None:
        await self._llm.get_supported_tasks()

    async def generate(
        self, prompt: dict[str, Any], sampling: dict[str, Any], request_id: str, *, priority: int
    ) -> AsyncGenerator[Any, None]:
        from vllm import TokensPrompt

        outputs = self._llm.generate(
            TokensPrompt(**prompt),
            sampling_params(sampling),
            request_id,
            priority=-priority,  # lower goes first there
        )
        with _our_errors():
            try:
                async for output in outputs:
                    yield output
            finally:
                await outputs.aclose()

    async def abort(self, request_id: str) -> None:
        await self._llm.abort(request_id)

    def shutdown(self) -> None:
        self._llm.shutdown()


def sampling_params(fields: Mapping[str, Any]) -> Any:
    """`vllm.SamplingParams` of `vllm_params.sampling_fields`. Raises what vLLM raises for values that it refuses."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    form = fields.get("structured_outputs")
    return SamplingParams(
        **{
            **fields,
            "structured_outputs": StructuredOutputsParams(**form) if form else None,
            "output_kind": RequestOutputKind.DELTA,
        }
    )


@contextmanager
def _our_errors() -> Iterator[None]:
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except VLLMClientError as error:
        raise RequestRefused(f"vLLM refuses it: {error}") from error
    except EngineDeadError as error:
        raise EngineClosed("vLLM's own process has died; its log says more") from error
