"""How models are run: engines, batches, shards, KV cache, speculation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from .fields import Section, setting
from .kinds import NonEmpty, RedisUrl


class Vllm(Section):
    """Settings handed to vLLM."""

    gpu_memory_utilization: float = setting(
        0.85, "Share of the GPU's memory for vLLM.", variable="GPU_INFERENCE_VLLM_GPU_MEMORY_UTILIZATION", gt=0, le=1
    )
    max_num_seqs: int = setting(256, "Sequences in one step.", variable="GPU_INFERENCE_VLLM_MAX_NUM_SEQS", ge=1)


class Sglang(Section):
    """Settings handed to SGLang."""

    mem_fraction_static: float = setting(
        0.8,
        "Share of the GPU's memory for weights and KV.",
        variable="GPU_INFERENCE_SGLANG_MEM_FRACTION_STATIC",
        gt=0,
        lt=1,
    )
    chunked_prefill_size: int = setting(
        8192,
        "Prompt tokens in one prefill step.",
        variable="GPU_INFERENCE_SGLANG_CHUNKED_PREFILL_SIZE",
        unit="tokens",
        ge=1,
    )


class Batch(Section):
    """Dynamic batching of requests that arrive together."""

    max_batch_size: int = setting(
        32, "Inputs in one batch.", variable="GPU_INFERENCE_BATCH_MAX_BATCH_SIZE", ge=1, le=4096
    )
    max_wait_ms: float = setting(
        50.0,
        "Longest wait for a batch to fill while others are computed; an idle grid does not wait.",
        variable="GPU_INFERENCE_BATCH_MAX_WAIT_MS",
        unit="ms",
        ge=0,
        le=10_000,
    )


class Inference(Section):
    """The engine and its settings."""

    engine: Literal["torch", "vllm", "sglang", "transformers"] = setting(
        "torch", "What runs language models.", variable="GPU_LLM_ENGINE"
    )
    vllm: Vllm = Vllm()
    sglang: Sglang = Sglang()
    batch: Batch = Batch()


class ModelShard(Section):
    """The part of a model that this worker holds."""

    model_id: NonEmpty | None = setting(
        None,
        "Model to hold a part of.",
        variable="GPU_DISTRIBUTED_MODEL_SHARD_MODEL_ID",
        unset="assigned by the grid",
    )
    start_layer: int | None = setting(
        None,
        "First transformer block, counted from 0.",
        variable="GPU_DISTRIBUTED_MODEL_SHARD_START_LAYER",
        unset="assigned by the grid",
        ge=0,
    )
    end_layer: int | None = setting(
        None,
        "Last transformer block, included.",
        variable="GPU_DISTRIBUTED_MODEL_SHARD_END_LAYER",
        unset="assigned by the grid",
        ge=0,
    )

    @model_validator(mode="after")
    def _whole_range(self) -> Self:
        if (self.start_layer is None) != (self.end_layer is None):
            raise ValueError("start_layer and end_layer are set both or not at all")
        if self.start_layer is not None and self.end_layer is not None and self.start_layer > self.end_layer:
            raise ValueError(f"start_layer {self.start_layer} is behind end_layer {self.end_layer}")
        return self


class KvCache(Section):
    """Room for keys and values of attention."""

    gpu_cache_size_gb: float = setting(
        4.0, "Of GPU memory.", variable="GPU_DISTRIBUTED_KV_CACHE_GPU_CACHE_SIZE_GB", unit="GB", ge=0
    )
    cpu_cache_size_gb: float = setting(
        16.0, "Of main memory.", variable="GPU_DISTRIBUTED_KV_CACHE_CPU_CACHE_SIZE_GB", unit="GB", ge=0
    )
    enable_redis: bool = setting(
        False, "Share cached blocks through Redis.", variable="GPU_DISTRIBUTED_KV_CACHE_ENABLE_REDIS"
    )
    redis_url: RedisUrl | None = setting(
        None,
        "Address of that Redis.",
        variable="GPU_DISTRIBUTED_KV_CACHE_REDIS_URL",
        allowed="a redis://, rediss:// or unix:// URL",
        secret=True,
    )

    @model_validator(mode="after")
    def _redis_has_an_address(self) -> Self:
        if self.enable_redis and self.redis_url is None:
            raise ValueError("enable_redis is on, so redis_url is needed")
        return self


class Distributed(Section):
    """This worker's part in a model that spans several."""

    role: Literal["hybrid", "prefill", "decode"] = setting(
        "hybrid", "Phase of generation that this worker takes.", variable="GPU_DISTRIBUTED_ROLE"
    )
    model_shard: ModelShard = ModelShard()
    kv_cache: KvCache = KvCache()


class Speculative(Section):
    """Speculative decoding: draft tokens that the model then checks in one pass."""

    enabled: bool = setting(False, "Use it.", variable="GPU_SPECULATIVE_ENABLED")
    num_speculative_tokens: int = setting(
        5, "Draft tokens for each pass.", variable="GPU_SPECULATIVE_NUM_SPECULATIVE_TOKENS", unit="tokens", ge=1, le=64
    )
    tree_width: int = setting(
        3, "Branches of the draft tree at each level.", variable="GPU_SPECULATIVE_TREE_WIDTH", ge=1, le=64
    )
    tree_depth: int = setting(5, "Levels of the draft tree.", variable="GPU_SPECULATIVE_TREE_DEPTH", ge=1, le=64)
    adaptive_depth: bool = setting(
        True, "Let the depth follow the accepted share.", variable="GPU_SPECULATIVE_ADAPTIVE_DEPTH"
    )
    min_accept_rate: float = setting(
        0.3, "Accepted share below which drafting pauses.", variable="GPU_SPECULATIVE_MIN_ACCEPT_RATE", ge=0, le=1
    )
