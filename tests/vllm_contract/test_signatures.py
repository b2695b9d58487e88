"""Every name that we use of vLLM exists in the real package, and means what we rely on."""

import ast
import dataclasses
import inspect
import math
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import vllm
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.version import Version
from vllm import SamplingParams, TokensPrompt, envs
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import FINISH_REASON_STRINGS
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import AggregateStatLoggerBase, PerEngineStatLoggerAdapter, StatLoggerBase
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.request import Request as CoreRequest
from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar

from idlegrid.actors.llm import vllm_params
from idlegrid.actors.llm.request import FinishReason, Request, Sampling
from idlegrid.actors.llm.vllm_client import AsyncLlmClient, Meter, VllmOptions, engine_fields, sampling_params

ROOT = Path(__file__).resolve().parents[2]


def parameters(function):
    return inspect.signature(function).parameters


def source(module):
    return Path(find_spec(module).origin).read_text()


def test_it_is_the_version_that_we_ask_for():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert Requirement(extras["vllm"][0]).specifier.contains(Version(version("vllm")))
    assert version("llguidance").startswith("1.7."), "the constraints are to be tested with vLLM's"
    assert Path(vllm.__file__).name == "__init__.py", "the real package, not a folder of that name"


def test_async_llm_is_called_as_it_wants_to_be():
    made = parameters(AsyncLLM.from_engine_args)
    assert {"engine_args", "stat_loggers"} <= set(made)
    generate = parameters(AsyncLLM.generate)
    assert list(generate)[1:4] == ["prompt", "sampling_params", "request_id"]
    assert generate["priority"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.isasyncgenfunction(AsyncLLM.generate)
    assert inspect.iscoroutinefunction(AsyncLLM.abort)
    assert parameters(AsyncLLM.abort)["internal"].default is False, "abort takes the ids that we gave"
    assert inspect.iscoroutinefunction(AsyncLLM.get_supported_tasks)
    assert not inspect.iscoroutinefunction(AsyncLLM.shutdown)
    assert isinstance(AsyncLLM.errored, property)


def test_our_client_has_what_the_engine_uses():
    for name in ("generate", "abort", "ready", "shutdown", "context", "vocab_size", "dtype", "broken"):
        assert hasattr(AsyncLlmClient, name)


def test_engine_arguments_exist():
    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    asked = engine_fields(Path("model"), VllmOptions(device="cuda:1"))
    assert set(asked) <= fields
    assert {"quantization", "kv_cache_dtype"} <= fields, "the examples of VllmOptions.more"
    StructuredOutputsConfig(**asked["structured_outputs_config"])
    assert AsyncEngineArgs.max_logprobs == 20
    assert AsyncEngineArgs.logprobs_mode == "raw_logprobs", "of the model's own logits, as ours"
    assert '"priority"' in source("vllm.config.scheduler")
    assert AsyncEngineArgs.async_scheduling is None


def test_the_switches_exist():
    assert {"VLLM_NO_USAGE_STATS", "VLLM_WORKER_MULTIPROC_METHOD"} <= set(envs.environment_variables)


def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(ValueError, match="no device of kind 'cuda'"):
        AsyncLlmClient(tmp_path, VllmOptions(), Meter())


def test_outputs_have_the_fields_that_we_read():
    assert {"token_ids", "logprobs", "finish_reason"} <= {field.name for field in dataclasses.fields(CompletionOutput)}
    assert {"outputs", "finished", "num_cached_tokens"} <= set(parameters(RequestOutput.__init__))
    assert {"logprob", "rank"} <= {field.name for field in dataclasses.fields(Logprob)}
    assert RequestOutputKind.DELTA in RequestOutputKind
    assert {"prompt_token_ids", "cache_salt"} <= set(TokensPrompt.__annotations__) | set(
        TokensPrompt.__mro__[0].__optional_keys__
    )


def test_why_an_answer_ends():
    ours = {reason: vllm_params.finish_reason(reason) for reason in FINISH_REASON_STRINGS}
    assert ours == {
        "stop": FinishReason.STOP,
        "length": FinishReason.LENGTH,
        "abort": FinishReason.ERROR,
        "error": FinishReason.ERROR,
        "repetition": FinishReason.ERROR,
    }


def test_refusals_are_told_from_deaths():
    assert issubclass(VLLMValidationError, VLLMClientError)
    assert not issubclass(EngineDeadError, VLLMClientError)


def test_lower_priority_goes_first():
    first, second = (
        CoreRequest("a", [1], SamplingParams(), None, arrival_time=2.0, priority=-5),
        CoreRequest("b", [1], SamplingParams(), None, arrival_time=1.0, priority=0),
    )
    assert first < second


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("MAX_NUM_LOGIT_BIAS_TOKENS", vllm_params.MOST_BIASES),
        ("MAX_NUM_STOP_TOKEN_IDS", vllm_params.MOST_STOP_IDS),
    ],
)
def test_limits_of_the_sampler(name, ours):
    """Read, not imported: the module wants Triton."""
    tree = ast.parse(source("vllm.v1.worker.gpu.sample.logit_bias"))
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(values[name]) == ours


def test_noise_is_keyed_by_seed_and_position():
    """Why an answer that goes on after known tokens goes on as it would have."""
    tree = ast.parse(source("vllm.v1.worker.gpu.sample.gumbel"))
    [sample] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "gumbel_sample"]
    assert {"seed", "pos"} <= {argument.arg for argument in sample.args.args}
    assert "pos = input_batch.positions[input_batch.logits_indices]" in source("vllm.v1.worker.gpu.sample.sampler")


# -- what we send is taken as it was meant

samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 600),
    min_tokens=st.just(0),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 1000),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.1, 3),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, 400), st.floats(-100, 100), max_size=4),
    seed=st.integers(-(2**70), 2**70),
    stop=st.lists(st.text(min_size=1), max_size=2).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 400), max_size=4).map(tuple),
    ignore_eos=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
    regex=st.none() | st.just("[a-z]+"),
)


@given(samplings, st.integers(0, 8))
@settings(deadline=None)
def test_sampling_params_take_every_value_that_we_accept(sampling, known):
    request = Request(id="r", prompt=(1, 2, 3), sampling=sampling, known=(7,) * min(known, sampling.max_tokens - 1))
    fields = vllm_params.sampling_fields(request, context=512, eos_ids=frozenset({0}))
    params = sampling_params(fields)
    changed = {"structured_outputs", "output_kind", "temperature", "top_p", "top_k", "min_p"}
    for name in set(fields) - changed:
        assert getattr(params, name) == fields[name], name
    assert params.output_kind is RequestOutputKind.DELTA
    assert (params.temperature == 0) == (sampling.temperature < vllm_params.GREEDY_BELOW)
    assert math.isclose(params.temperature, sampling.temperature, abs_tol=0.01)
    assert -(2**63) <= params.seed < 2**63
    assert (params.structured_outputs is not None) == (sampling.regex is not None)


@pytest.mark.parametrize("form", [{"regex": "[a-z]{3}"}, {"json_schema": '{"type": "object"}'}])
def test_forms_are_taken_by_the_backend_that_we_choose(form):
    request = Request(id="r", prompt=(1,), sampling=Sampling(**form))
    params = sampling_params(vllm_params.sampling_fields(request, context=512, eos_ids=frozenset({0})))
    validate_guidance_grammar(params, tokenizer=None)
    broken = sampling_params(
        vllm_params.sampling_fields(
            Request(id="r", prompt=(1,), sampling=Sampling(regex="(((")), context=512, eos_ids=frozenset({0})
        )
    )
    with pytest.raises(VLLMClientError):
        validate_guidance_grammar(broken, tokenizer=None)


# -- the meter


def test_the_meter_is_a_stat_logger():
    for name in ("record", "log", "log_engine_initialized", "record_sleep_state"):
        ours = [parameter for parameter in parameters(getattr(Meter, name)) if parameter != "self"]
        assert ours == [parameter for parameter in parameters(getattr(StatLoggerBase, name)) if parameter != "self"]
    meter = Meter()
    assert not (isinstance(meter, type) and issubclass(meter, AggregateStatLoggerBase))
    adapter = PerEngineStatLoggerAdapter(None, [0], meter)
    adapter.log_engine_initialized()
    stats = SchedulerStats(num_running_reqs=3, num_waiting_reqs=2, num_skipped_waiting_reqs=1, kv_cache_usage=0.25)
    adapter.record(stats, None, mm_cache_stats=None, engine_idx=0)
    adapter.record(None, None, mm_cache_stats=None, engine_idx=0)
    adapter.log()
    assert (meter.counts.running, meter.counts.waiting, meter.counts.kv_usage) == (3, 3, 0.25)
