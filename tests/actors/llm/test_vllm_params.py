from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.llm import vllm_params
from idlegrid.actors.llm.request import FinishReason, Request, RequestRefused, Sampling
from idlegrid.actors.llm.sampling import GREEDY_BELOW
from idlegrid.actors.llm.vllm_client import VllmOptions, engine_fields
from idlegrid.actors.llm.vllm_params import check_limits, finish_reason, logprob, prompt_fields, sampling_fields

EOS = frozenset({0, 9})
PLAIN = Sampling()


def fields(sampling=PLAIN, known=(), prompt=(1, 2, 3), context=100):
    request = Request(id="r", prompt=prompt, sampling=sampling, known=known)
    return sampling_fields(request, context=context, eos_ids=EOS)


@given(
    prompt=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    known=st.lists(st.integers(0, 50), max_size=10),
    max_tokens=st.integers(11, 200),
    min_tokens=st.integers(0, 11),
)
def test_prompt_and_known_and_what_is_left_make_the_same_answer(prompt, known, max_tokens, min_tokens):
    sampling = Sampling(max_tokens=max_tokens, min_tokens=min_tokens)
    request = Request(id="r", prompt=tuple(prompt), sampling=sampling, known=tuple(known))
    told, asked = sampling_fields(request, context=64, eos_ids=EOS), prompt_fields(request)["prompt_token_ids"]
    assert asked == prompt + known
    assert len(asked) + told["max_tokens"] == min(len(prompt) + max_tokens, 64)
    assert 0 <= told["min_tokens"] <= told["max_tokens"]
    assert told["min_tokens"] == min(max(0, min_tokens - len(known)), told["max_tokens"])


def test_known_tokens_of_a_form_are_generated_again():
    request = Request(id="r", prompt=(1, 2), sampling=Sampling(regex="a+", max_tokens=9), known=(5, 6))
    assert prompt_fields(request) == {"prompt_token_ids": [1, 2]}
    told = sampling_fields(request, context=100, eos_ids=EOS)
    assert told["max_tokens"] == 9
    assert told["structured_outputs"] == {"regex": "a+"}
    assert fields(Sampling(json_schema="{}"))["structured_outputs"] == {"json": "{}"}
    assert "structured_outputs" not in fields()


def test_who_ends_the_answer_is_always_said_in_full():
    assert fields(Sampling(stop_token_ids=(7,)))["stop_token_ids"] == [0, 7, 9]
    assert fields(Sampling(stop_token_ids=(7,), ignore_eos=True))["stop_token_ids"] == [7]
    assert fields(Sampling(ignore_eos=True, regex="a"))["stop_token_ids"] == [0, 9]
    assert fields()["ignore_eos"] is True


def test_the_salt_keeps_tenants_apart():
    assert "cache_salt" not in prompt_fields(Request(id="r", prompt=(1,)))
    assert prompt_fields(Request(id="r", prompt=(1,), salt="x"))["cache_salt"] == "x"


@pytest.mark.parametrize(("seed", "told"), [(0, 0), (7, 7), (-1, 2**63 - 1), (2**63 + 5, 5)])
def test_a_seed_is_never_taken_for_none_and_fits(seed, told):
    assert fields(Sampling(seed=seed))["seed"] == told
    assert fields(Sampling(seed=seed), known=(4, 4))["seed"] == told, "noise is keyed by position"


def test_greedy_is_what_it_is_for_our_engine():
    assert vllm_params.GREEDY_BELOW == GREEDY_BELOW
    assert fields(Sampling(temperature=GREEDY_BELOW / 2))["temperature"] == 0
    assert fields(Sampling(temperature=0.5))["temperature"] == 0.5


def test_known_tokens_are_penalised_as_if_they_had_been_generated():
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={4: 1.0, 8: -2.0})
    assert fields(sampling)["logit_bias"] == {4: 1.0, 8: -2.0}
    assert fields(sampling, known=(4, 4, 6))["logit_bias"] == {4: 1.0 - 0.5 - 0.5, 8: -2.0, 6: -0.75}
    assert fields(Sampling(), known=(4, 4, 6))["logit_bias"] is None
    assert fields(Sampling(presence_penalty=1.0, regex="a"), known=(4,))["logit_bias"] is None


def test_penalties_never_exceed_what_vllm_survives(monkeypatch):
    monkeypatch.setattr(vllm_params, "MOST_BIASES", 3)
    known = (1, 2, 2, 3, 3, 3, 4)
    told = fields(Sampling(frequency_penalty=1.0, logit_bias={50: 2.0, 1: 1.0}), known=known)["logit_bias"]
    assert told == {50: 2.0, 1: 0.0, 3: -3.0}


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(logit_bias=dict.fromkeys(range(1025), 1.0)), "1025"),
        (Sampling(stop_token_ids=tuple(range(10, 137))), "129"),
    ],
)
def test_what_would_kill_vllm_is_refused(sampling, message):
    with pytest.raises(RequestRefused, match=message):
        check_limits(sampling, EOS)
    check_limits(Sampling(logit_bias=dict.fromkeys(range(1024), 1.0), stop_token_ids=tuple(range(10, 136))), EOS)


def test_logprobs_of_one_position():
    position = {
        5: SimpleNamespace(logprob=-3.0, rank=7),
        8: SimpleNamespace(logprob=-0.1, rank=1),
        2: SimpleNamespace(logprob=-2.5, rank=2),
    }
    told = logprob(5, position, 2)
    assert (told.token, told.logprob, told.top) == (5, -3.0, ((8, -0.1), (2, -2.5)))
    assert logprob(5, position, 0).top == ()
    assert logprob(8, position, 1).top == ((8, -0.1),)


def test_only_stop_and_length_are_no_errors():
    assert finish_reason("stop") is FinishReason.STOP
    assert finish_reason("length") is FinishReason.LENGTH
    assert {finish_reason(told) for told in ("abort", "error", "repetition", "None")} == {FinishReason.ERROR}


def test_options(tmp_path):
    told = engine_fields(tmp_path, VllmOptions(device="cuda:2", max_sequences=4))
    assert (told["model"], told["device_ids"], told["max_num_seqs"]) == (str(tmp_path), [2], 4)
    assert engine_fields(tmp_path, VllmOptions())["device_ids"] is None
    assert told["trust_remote_code"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "'cuda' or 'cuda:N', not on 'cpu'"),
        ({"device": "cuda:x"}, "cuda:x"),
        ({"dtype": "float64"}, "float64"),
        ({"more": {"trust_remote_code": True}}, "trust_remote_code"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VllmOptions(**options)
