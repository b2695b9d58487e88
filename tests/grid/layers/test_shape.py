"""Layer ranges and the bytes of a model's parts."""

from __future__ import annotations

import pytest
from layer_fleets import a_model

from idlegrid.grid.layers.shape import LayerRange, ModelShape, Traffic


def test_a_range_is_named_by_its_first_and_last_layer():
    assert str(LayerRange(0, 16)) == "0-15"
    assert str(LayerRange(3, 4)) == "3"
    assert len(LayerRange(3, 7)) == 4
    assert list(LayerRange(3, 5)) == [3, 4]
    assert 4 in LayerRange(3, 5)
    assert 5 not in LayerRange(3, 5)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (3, 1)])
def test_no_range_is_empty_or_before_the_model(start, end):
    with pytest.raises(ValueError, match="0 <= start < end"):
        LayerRange(start, end)


@pytest.mark.parametrize(
    ("other", "count"), [(LayerRange(0, 3), 1), (LayerRange(6, 9), 0), (None, 0), (LayerRange(0, 9), 4)]
)
def test_layers_in_both(other, count):
    assert LayerRange(2, 6).shared(other) == count


def test_the_ends_of_a_model_weigh_more():
    model = a_model(4, embed_bytes=7, head_bytes=5)
    assert [model.weight_bytes(LayerRange(*one)) for one in ((1, 3), (0, 2), (2, 4), (0, 4))] == [20, 27, 25, 52]


def test_a_tied_head_is_held_once():
    model = a_model(4, embed_bytes=7, head_bytes=7, tied=True)
    assert model.weight_bytes(model.whole) == 47
    assert model.weight_bytes(LayerRange(0, 2)) + model.weight_bytes(LayerRange(2, 4)) == 54


def test_the_output_head_is_work():
    model = a_model(4, head_layers=1.5)
    assert model.work(LayerRange(0, 3)) == 3
    assert model.work(LayerRange(2, 4)) == 3.5


@pytest.mark.parametrize("field", ["layers", "layer_bytes", "kv_bytes", "activation_bytes"])
def test_a_model_without_a_size_is_refused(field):
    sizes = {"layers": 1, "layer_bytes": 1, "kv_bytes": 1, "activation_bytes": 1}
    with pytest.raises(ValueError, match=f"{field} is 0"):
        ModelShape(**{**sizes, field: 0})


@pytest.mark.parametrize("field", ["context_tokens", "token_seconds", "sequences"])
def test_traffic_of_nothing_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} is 0"):
        Traffic(**{field: 0})
