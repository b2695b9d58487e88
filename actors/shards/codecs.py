"""Tensors as bytes and back: raw, rounded to bfloat16, or int8 by blocks. For hidden states, logits and token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .frame import BLOCK, Buffer, Codec, Dtype, Frame

_DTYPES = {
    torch.float32: Dtype.FLOAT32,
    torch.float64: Dtype.FLOAT64,
    torch.float16: Dtype.FLOAT16,
    torch.bfloat16: Dtype.BFLOAT16,
    torch.int64: Dtype.INT64,
}
_TORCH = {dtype: mine for mine, dtype in _DTYPES.items()}
_LEVELS = 127


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor on its way: the fields of the same names of a frame."""

    dtype: Dtype
    codec: Codec
    shape: tuple[int, ...]
    body: Buffer


def pack(tensor: torch.Tensor, codec: Codec = Codec.RAW) -> Packed:
    """A tensor of at most four dimensions, on any device. With RAW and memory of the CPU nothing is copied: the tensor
    must not change while it is on its way.

    BFLOAT16 and INT8 lose precision (2⁻⁹, and 1/254 of the largest of 64 values, or 4e-6) and take floats only. An
    infinite or missing (NaN) value makes its block of INT8 NaN. Raises TypeError for other dtypes.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None or (dtype is Dtype.INT64 and codec is not Codec.RAW):
        raise TypeError(f"a {tensor.dtype} doesn't travel as {codec.name}; floats do, and int64 as RAW")
    shape = tuple(tensor.shape)
    if codec is Codec.INT8:
        return Packed(dtype, codec, shape, _to_int8(tensor))
    if codec is Codec.BFLOAT16:
        tensor = tensor.bfloat16()
    return Packed(dtype, codec, shape, _memory(tensor))


def unpack(frame: Frame) -> torch.Tensor:
    """The tensor of a frame, on the CPU, in its own dtype; it shares the frame's memory where nothing had to change.

    Raises ValueError for a frame without a tensor.
    """
    dtype = _TORCH.get(frame.dtype)
    if dtype is None:
        raise ValueError(f"step {frame.step} carries no tensor")
    if frame.codec is Codec.INT8:
        return _from_int8(frame.body, frame.shape).to(dtype)
    travelled = torch.bfloat16 if frame.codec is Codec.BFLOAT16 else dtype
    if not frame.body:
        return torch.empty(frame.shape, dtype=dtype)
    tensor = torch.frombuffer(_writable(frame.body), dtype=travelled).view(frame.shape)
    return tensor if travelled is dtype else tensor.to(dtype)


def _memory(tensor: torch.Tensor) -> Buffer:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.numel() == 0:
        return b""
    values: Any = (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return memoryview(values).cast("B")


def _writable(body: Buffer) -> Buffer:
    """torch wants to be able to write: what came in a frame of its own can be."""
    return bytearray(body) if memoryview(body).readonly else body


# NumPy: on the few thousand values of a decode step its calls cost a fraction of torch's


def _to_int8(tensor: torch.Tensor) -> Buffer:
    values = tensor.detach().cpu().reshape(-1).float().numpy()
    count = len(values)
    blocks = np.pad(values, (0, -count % BLOCK)).reshape(-1, BLOCK) if count % BLOCK else values.reshape(-1, BLOCK)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scales = (np.maximum(blocks.max(1, initial=0.0), -blocks.min(1, initial=0.0)) / _LEVELS).astype(np.float16)
        inverse = 1 / scales.astype(np.float32)
        inverse[np.isinf(inverse)] = 0.0  # a block of nothing
        quantised = np.rint(blocks * inverse[:, None])
        np.clip(quantised, -_LEVELS, _LEVELS, out=quantised)
        if not np.isfinite(scales).all():
            np.nan_to_num(quantised, copy=False)  # its scale says it already
    body: bytes = scales.tobytes() + quantised.astype(np.int8).ravel()[:count].tobytes()
    return body


def _from_int8(body: Buffer, shape: tuple[int, ...]) -> torch.Tensor:
    count, memory = torch.Size(shape).numel(), memoryview(body)
    edge = 2 * -(-count // BLOCK)
    scales = np.frombuffer(memory[:edge], np.float16).astype(np.float32)
    values = np.frombuffer(memory[edge:], np.int8).astype(np.float32)
    if count % BLOCK:
        values = np.pad(values, (0, -count % BLOCK))
    with np.errstate(invalid="ignore"):
        restored = values.reshape(-1, BLOCK) * scales[:, None]
    return torch.from_numpy(restored.ravel()[:count]).view(shape)
