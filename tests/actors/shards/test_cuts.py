"""However a model is cut, the sequencer over its stages gives the tokens of transformers.generate; in one process."""

import random

import pytest
import torch
from cut_scenario import BLOCK, BLOCKS, FAMILIES, cuts, generate, requests, sequencer, truth

from idlegrid.actors.llm import weights
from idlegrid.actors.llm.chain import LocalChain
from idlegrid.actors.llm.stage import Stage

pytestmark = pytest.mark.slow


def stages(model, cut, dtype):
    return [Stage(model.folder, part, dtype=dtype, num_blocks=BLOCKS, block_size=BLOCK) for part in cut]


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("cut", list(cuts()), ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cut_gives_the_tokens_of_generate(family, dtype, cut, count, make_model):
    draw, model, plans = random.Random(f"{family}{count}"), make_model(family, dtype), sequencer()
    asked = requests(draw, count)
    chain = LocalChain(stages(model, cut, getattr(torch, dtype)))
    assert generate(plans, chain, asked, draw) == truth(model, asked)
    assert count == 1 or plans.stats().prefix_hit_tokens


@pytest.mark.parametrize("cut", list(cuts()), ids=str)
def test_a_stage_reads_the_bytes_of_its_layers_and_no_others(cut, make_model, monkeypatch):
    """Counted where safetensors gives them out."""
    model, read = make_model("qwen2"), []
    opened = weights.safe_open

    class Counting:
        def __init__(self, *args, **options):
            self.file = opened(*args, **options)

        def __enter__(self):
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.inner.keys()

        def get_tensor(self, name):
            tensor = self.inner.get_tensor(name)
            read.append((name, tensor.nbytes))
            return tensor

    monkeypatch.setattr(weights, "safe_open", Counting)
    sizes = {name: tensor.nbytes for name, tensor in model.peer.state_dict().items()}
    for part in cut:
        read.clear()
        (stage,) = stages(model, (part,), torch.float32)
        own = {name for name in sizes for layer in part if name.startswith(f"model.layers.{layer}.")}
        own |= {"model.embed_tokens.weight"} if stage.first or stage.last else set()  # tied: the head is the embedding
        own |= {"model.norm.weight"} if stage.last else set()
        assert {name for name, _ in read} == own
        assert stage.bytes_loaded == sum(size for _, size in read) == sum(sizes[name] for name in own)
        assert stage.pages.data.shape[0] == len(part)
