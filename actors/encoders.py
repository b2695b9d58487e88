"""The transformer of an embedding model on the library that runs it best: token ids in, hidden states out."""

from __future__ import annotations

import copy
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids, mask), both (B, T) int64 on the CPU → hidden states (B, T, H) fp32 on the model's device."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A transformer ready to run."""

    backend: str
    """``torch`` or ``openvino``."""
    dtype: str
    """In which it computes: ``bfloat16`` or ``float32``."""
    forward: Forward


def torch_encoder(transformer: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Encoder:
    """`transformer`, a sentence-transformers module, with weights in `dtype`; another dtype than its own is a copy."""
    if next(transformer.parameters()).dtype is not dtype:
        transformer = copy.deepcopy(transformer).to(dtype)

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features = transformer({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
        hidden: torch.Tensor = features["token_embeddings"]
        return hidden.float()

    return Encoder("torch", str(dtype).removeprefix("torch."), forward)


def openvino_available() -> bool:
    """Whether the extra `openvino` is installed."""
    return importlib.util.find_spec("openvino") is not None


def openvino_encoder(transformer: torch.nn.Module, dtype: torch.dtype, threads: int) -> Encoder:
    """`transformer`, in fp32, compiled by OpenVINO for this CPU; it computes in `dtype` on `threads` threads.

    On x86 CPUs with bfloat16 it fuses what torch computes one by one, and is 1.2 to 1.5 times as fast on small models.
    """
    _report_nothing()
    import openvino as ov
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class OnlyHidden(torch.nn.Module):
        """The plain Hugging Face model as a function of two tensors, which is what the converter traces."""

        def __init__(self) -> None:
            super().__init__()
            self.model: torch.nn.Module = transformer.get_submodule("model")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]

    example = {"input_ids": torch.ones(2, 8, dtype=torch.int64), "attention_mask": torch.ones(2, 8, dtype=torch.int64)}
    precision = {torch.bfloat16: "bf16", torch.float32: "f32"}[dtype]
    # the front end itself, not `openvino.convert_model`: that one reports every use to its maker
    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's: whoever loads the encoder compares its vectors with torch's
        decoder = TorchScriptPythonDecoder(OnlyHidden().eval(), example_input=example)
        converted = frontend.convert(frontend.load(decoder))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # every worker process would pin itself to the same first core
    }
    compiled = ov.Core().compile_model(converted, "CPU", options)
    request = compiled.create_infer_request()

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = request.infer({"input_ids": ids.numpy(), "attention_mask": mask.numpy()}, share_inputs=True)[0]
        return torch.from_numpy(np.asarray(hidden, dtype=np.float32))

    return Encoder("openvino", str(dtype).removeprefix("torch."), forward)


def _report_nothing() -> None:
    """OpenVINO tells its maker, without asking, that it was imported, and keeps an id for that in the user's folder.
    It does without where the package that reports can't be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than fp32 there: in silicon, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
