import pytest
import torch

from idlegrid.actors.llm.linear import linear, packs


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 16, 33, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_it_multiplies_whatever_the_number_of_rows(rows, dtype, biased):
    torch.manual_seed(rows)
    weight, x = torch.randn(48, 40).to(dtype), torch.randn(rows, 40).to(dtype)
    bias = torch.randn(48).to(dtype) if biased else None
    with torch.no_grad():
        result = linear(weight, bias)(x)
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    tolerance = 2e-2 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=tolerance * 8)


def test_what_onednn_cannot_pack_stays_plain():
    assert not packs(torch.zeros(2, 2, dtype=torch.float64))
    assert not packs(torch.zeros(2, 2, device="meta"))
