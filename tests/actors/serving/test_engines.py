import json
import logging
import shutil

import pytest

from idlegrid.actors.llm.torch_engine import TorchEngine
from idlegrid.actors.llm.transformers_engine import TransformersEngine
from idlegrid.actors.llm.vllm_engine import VllmEngine
from idlegrid.actors.serving.engines import EngineSpec, make_engine


def test_auto_takes_ours_where_it_knows_the_family(language_model, caplog):
    with caplog.at_level(logging.WARNING):
        assert isinstance(make_engine(EngineSpec(model=str(language_model.folder))), TorchEngine)
    assert not caplog.records


def test_auto_takes_transformers_elsewhere_and_says_why(language_model, tmp_path, caplog):
    shutil.copytree(language_model.folder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "model_type": "gemma"}))
    engine = make_engine(EngineSpec(model=str(tmp_path / "other")))
    assert isinstance(engine, TransformersEngine)
    assert "model type 'gemma'" in caplog.text


@pytest.mark.parametrize(
    ("name", "kind", "device"),
    [("torch", TorchEngine, "cpu"), ("transformers", TransformersEngine, "cpu"), ("vllm", VllmEngine, "cuda")],
)
def test_an_engine_by_its_name_with_its_options(language_model, name, kind, device):
    spec = EngineSpec(
        model=str(language_model.folder), engine=name, device=device, options={"max_sequences": 3, "queue_limit": 5}
    )
    assert isinstance(make_engine(spec), kind)


def test_an_unknown_name_is_met_with_a_suggestion():
    with pytest.raises(ValueError, match=r"'vlm' is none of auto, torch, .*[Dd]id you mean.*vllm"):
        EngineSpec(model="m", engine="vlm")


def test_vllm_on_a_cpu_is_refused_before_anything_is_loaded(language_model):
    with pytest.raises(ValueError, match="not on 'cpu'"):
        make_engine(EngineSpec(model=str(language_model.folder), engine="vllm"))
