import json

import pytest

from idlegrid.actors.llm.families import UnsupportedModel, architecture

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-5,
}


def read(folder, **changes):
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    return architecture(folder)


def test_sizes_are_read(tmp_path):
    shape = read(tmp_path)
    assert (shape.num_layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (4, 64, 4, 2, 16)
    assert (shape.norm_eps, shape.vocab, shape.tied, shape.windows) == (1e-5, 128, False, (None,) * 4)
    assert shape.inverse_frequencies.shape == (8,)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_type": "gpt2", "n_head": 4}, "model type 'gpt2'"),
        ({"model_type": "gemma2"}, "model type 'gemma2' is none of llama, mistral, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "its activation is 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary embedding is 'dynamic'"),
    ],
)
def test_what_is_not_supported_names_the_engine_that_can(tmp_path, changes, why):
    with pytest.raises(UnsupportedModel, match=why) as refused:
        read(tmp_path, **changes)
    assert "engine 'transformers'" in str(refused.value)


def test_a_type_that_transformers_does_not_know_is_an_error_of_ours(tmp_path):
    with pytest.raises(UnsupportedModel, match="does-not-exist"):
        read(tmp_path, model_type="does-not-exist")


def test_windows_of_each_layer(tmp_path):
    assert read(tmp_path, model_type="mistral", sliding_window=20).windows == (20,) * 4
    assert read(tmp_path, model_type="mistral", sliding_window=None).windows == (None,) * 4
    qwen = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3}
    assert read(tmp_path, **qwen).windows == (None, None, None, 20)
    assert read(tmp_path, **qwen | {"use_sliding_window": False}).windows == (None,) * 4
