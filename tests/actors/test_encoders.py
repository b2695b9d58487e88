"""The transformer on each library: the same hidden states from the same ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from idlegrid.actors.encoders import fast_bfloat16, openvino_available, openvino_encoder, torch_encoder
from idlegrid.actors.models import resolve

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def transformer():
    from sentence_transformers import SentenceTransformer  # takes seconds: not while tests are collected

    pipeline = SentenceTransformer(str(resolve("all-MiniLM-L6-v2")), device="cpu").eval()
    return pipeline[0]


def batch(*lengths):
    """(ids, mask), (B, T) each, right-padded."""
    ids = torch.zeros((len(lengths), max(lengths)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(1000, 1000 + length)
        mask[row, :length] = 1
    return ids, mask


def kept(hidden, mask):
    """The hidden states of real tokens, (n, H)."""
    return hidden[mask.bool()].numpy()


@pytest.mark.slow
def test_another_dtype_is_a_copy(transformer):
    encoder = torch_encoder(transformer, CPU, torch.bfloat16)
    assert (encoder.backend, encoder.dtype) == ("torch", "bfloat16")
    assert next(transformer.parameters()).dtype is torch.float32
    with torch.inference_mode():
        assert encoder.forward(*batch(5, 3)).dtype is torch.float32


@pytest.mark.slow
@pytest.mark.skipif(not openvino_available(), reason="the extra openvino is not installed")
@pytest.mark.parametrize("shape", [(4,), (9, 2, 5), (256, 1)])
def test_openvino_computes_what_torch_does(transformer, shape):
    ids, mask = batch(*shape)
    with torch.inference_mode():
        expected = torch_encoder(transformer, CPU, torch.float32).forward(ids, mask)
    encoder = openvino_encoder(transformer, torch.float32, 1)
    assert (encoder.backend, encoder.dtype) == ("openvino", "float32")
    np.testing.assert_allclose(kept(encoder.forward(ids, mask), mask), kept(expected, mask), atol=2e-4)


@pytest.mark.slow
@pytest.mark.skipif(not openvino_available(), reason="the extra openvino is not installed")
def test_an_answer_of_openvino_is_not_overwritten_by_the_next(transformer):
    encoder = openvino_encoder(transformer, torch.float32, 1)
    first = encoder.forward(*batch(4, 4))
    copy = first.clone()
    encoder.forward(*batch(7, 2))
    assert torch.equal(first, copy)


@pytest.mark.slow
@pytest.mark.skipif(not openvino_available(), reason="the extra openvino is not installed")
def test_openvino_reports_to_nobody(transformer):
    openvino_encoder(transformer, torch.float32, 1)
    from openvino.tools.ovc import telemetry

    assert type(telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"


def test_fast_bfloat16_is_what_the_processor_says(monkeypatch):
    for capabilities, fast in (({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=capabilities: told)
        assert fast_bfloat16(CPU) is fast
