import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.shards.codecs import Packed, pack, unpack
from idlegrid.actors.shards.frame import Codec, Frame, Kind, body_bytes

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
shapes = st.lists(st.integers(0, 20), max_size=3).map(tuple)


def frame(packed: Packed):
    return Frame(
        kind=Kind.DATA, dtype=packed.dtype, codec=packed.codec, shape=packed.shape, body=bytearray(packed.body)
    )


def random(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(shapes, st.sampled_from([*FLOATS, torch.int64]))
def test_raw_is_the_same(shape, dtype):
    tensor = random(shape, dtype)
    back = unpack(frame(pack(tensor)))
    assert back.dtype is dtype
    assert torch.equal(back, tensor)


@given(shapes, st.sampled_from(FLOATS), st.sampled_from(list(Codec)))
def test_sizes_are_those_that_headers_promise(shape, dtype, codec):
    packed = pack(random(shape, dtype), codec)
    assert len(packed.body) == body_bytes(packed.dtype, codec, shape)
    back = unpack(frame(packed))
    assert (back.shape, back.dtype) == (torch.Size(shape), dtype)


@given(shapes, st.floats(1e-3, 1e4), st.integers(0, 2**20))
def test_int8_is_off_by_half_a_step_of_its_block(shape, scale, seed):
    tensor = random(shape, torch.float32, seed) * scale
    error = (unpack(frame(pack(tensor, Codec.INT8))) - tensor).abs()
    largest = tensor.abs().amax() if tensor.numel() else 0.0
    # half a step, and what rounding the scale to float16 cuts off the block's largest value; of a tiny one, 2⁻²⁵
    assert bool((error <= largest * (0.5 / 127 + 2**-10) + 127 * 2**-25).all())


def test_int8_of_a_normal_distribution_is_off_by_less_than_a_percent():
    tensor = random((64, 8192), torch.float32)
    back = unpack(frame(pack(tensor, Codec.INT8)))
    assert (back - tensor).norm() / tensor.norm() < 0.01
    assert torch.nn.functional.cosine_similarity(back, tensor).min() > 0.999


def test_a_block_does_not_suffer_from_another():
    tensor = torch.cat([torch.full((64,), 1e4), torch.full((64,), 1e-2), torch.tensor([torch.inf]), torch.ones(63)])
    back = unpack(frame(pack(tensor, Codec.INT8)))
    torch.testing.assert_close(back[:128], tensor[:128], rtol=1e-3, atol=0)
    assert back[128:].isnan().any()


def test_bfloat16_halves_float32():
    tensor = random((3, 5), torch.float32)
    packed = pack(tensor, Codec.BFLOAT16)
    assert len(packed.body) == tensor.nbytes // 2
    assert torch.equal(unpack(frame(packed)), tensor.bfloat16().float())


def test_a_tensor_that_is_not_contiguous_travels_as_its_values():
    tensor = random((4, 6), torch.float32).T
    assert torch.equal(unpack(frame(pack(tensor))), tensor)


def test_what_does_not_travel_is_refused():
    with pytest.raises(TypeError, match="int64"):
        pack(torch.arange(3), Codec.INT8)
    with pytest.raises(TypeError, match="bool"):
        pack(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no tensor"):
        unpack(Frame(kind=Kind.DATA))
