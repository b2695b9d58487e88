import pytest
import torch

from idlegrid.actors.llm.kv import Pages
from idlegrid.actors.llm.layout import PlanRefused
from idlegrid.actors.llm.plan import Copy


@pytest.fixture
def pages(tiny_shape):
    return Pages(tiny_shape(), range(2, 5), 6, 4, torch.float32, torch.device("cpu"))


def test_what_is_written_is_read(pages):
    kv = torch.randn(3, 4, 8)
    pages.write(1, torch.tensor([9, 22, 8]), kv)
    read = pages.read(1, torch.tensor([5, 2]))
    assert torch.equal(read[[5, 2, 4]].flatten(1), kv.flatten(1))
    assert read.count_nonzero() == kv.count_nonzero()
    assert pages.data[[0, 2]].count_nonzero() == 0


def test_copies_are_made_one_after_the_other(pages):
    pages.data.normal_()
    before = pages.data.clone()
    pages.copy([Copy(0, 1), Copy(1, 2)])
    assert torch.equal(pages.data[:, 1], before[:, 0])
    assert torch.equal(pages.data[:, 2], before[:, 0])
    assert torch.equal(pages.data[:, 3:], before[:, 3:])


def test_export_and_load(pages, tiny_shape):
    pages.data.normal_()
    other = Pages(tiny_shape(), range(4, 6), 9, 4, torch.float32, torch.device("cpu"))
    data = pages.export([5, 0], range(4, 5))
    assert list(data) == [4]
    assert list(pages.export([5])) == [2, 3, 4]
    other.load([8, 1], data)
    assert torch.equal(other.data[0, 8], pages.data[2, 5])
    assert torch.equal(other.data[0, 1], pages.data[2, 0])
    assert other.data.count_nonzero() == data[4].count_nonzero()


def test_an_export_is_a_copy(pages):
    exported = pages.export([1])
    pages.data += 1
    assert exported[2].count_nonzero() == 0


def test_what_does_not_fit_is_refused_before_anything_is_written(pages):
    good, short = torch.ones(1, 4, 2, 2, 8), torch.ones(1, 3, 2, 2, 8)
    for data, blocks, why in (
        ({2: good, 3: short}, [0], "pages of layer 3 are"),
        ({2: good, 3: good.double()}, [0], "float64"),
        ({2: good, 5: good}, [0], "layer 5 isn't here: the stage has 2 to 4"),
        ({2: good}, [6], r"blocks 0 to 5, not \[6\]"),
    ):
        with pytest.raises(PlanRefused, match=why):
            pages.load(blocks, data)
    assert pages.data.count_nonzero() == 0


def test_bytes_of_a_block(pages):
    assert pages.bytes_per_block == 3 * 4 * 2 * 2 * 8 * 4
