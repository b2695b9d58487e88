"""Our words as vLLM's and back: pure functions over plain values, so that they are tested where vLLM can't run.

What vLLM is asked for is tokens. Text, stop strings, counts and the terminal event are made by `Answer`, as for every
other engine, so that an answer reads the same whatever computed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .request import FinishReason, Request, RequestRefused, Sampling, TokenLogprob

MOST_BIASES = 1024
"""vLLM's (`MAX_NUM_LOGIT_BIAS_TOKENS`). It learns of more only in the process that computes, and dies of it."""
MOST_STOP_IDS = 128
"""vLLM's (`MAX_NUM_STOP_TOKEN_IDS`); the same."""
GREEDY_BELOW = 1e-5
"""As `sampling.GREEDY_BELOW`, which needs torch. vLLM raises other temperatures under 0.01 to 0.01."""
_SEEDS = 2**63
"""vLLM keeps a seed in 64 bits, and takes -1 for none."""

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def has_form(sampling: Sampling) -> bool:
    """Whether the text must follow a grammar."""
    return sampling.json_schema is not None or sampling.regex is not None


def stop_ids(sampling: Sampling, eos_ids: frozenset[int]) -> frozenset[int]:
    """Tokens that end the answer. A text with a form ends by the end token, also with `ignore_eos`: after it vLLM
    would go on without the form."""
    ends = eos_ids if has_form(sampling) or not sampling.ignore_eos else frozenset[int]()
    return ends | frozenset(sampling.stop_token_ids)


def check_limits(sampling: Sampling, eos_ids: frozenset[int]) -> None:
    """Raises RequestRefused for what this engine can't do and others can."""
    stops = len(stop_ids(sampling, eos_ids))
    if len(sampling.logit_bias) > MOST_BIASES:
        raise RequestRefused(f"logit_bias has {len(sampling.logit_bias)} tokens; the vllm engine takes {MOST_BIASES}")
    if stops > MOST_STOP_IDS:
        raise RequestRefused(
            f"{stops} tokens end the answer, the model's own included; the vllm engine takes {MOST_STOP_IDS}"
        )


def prompt_fields(request: Request) -> dict[str, Any]:
    """`vllm.TokensPrompt`. Known tokens come after the prompt, so that they are prefilled in one go.

    Except where the text has a form: vLLM follows a grammar from the first token that it generates, so that the known
    ones have to be generated again (see `VllmEngine`).
    """
    known = () if has_form(request.sampling) else request.known
    prompt: dict[str, Any] = {"prompt_token_ids": [*request.prompt, *known]}
    if request.salt:
        prompt["cache_salt"] = request.salt
    return prompt


def sampling_fields(request: Request, *, context: int, eos_ids: frozenset[int]) -> dict[str, Any]:
    """`vllm.SamplingParams`, as plain values; `structured_outputs` are the fields of `StructuredOutputsParams`.

    The request's known tokens are fewer than it may have. `seed`: vLLM's noise is keyed by seed and position as ours
    is, but it is other noise: a request has the same tokens on every vLLM, and others than on our engine.
    """
    sampling = request.sampling
    done = 0 if has_form(sampling) else len(request.known)
    left = min(sampling.max_tokens, context - len(request.prompt)) - done
    fields: dict[str, Any] = {
        "max_tokens": left,
        "min_tokens": min(max(0, sampling.min_tokens - done), left),
        "temperature": 0.0 if sampling.temperature < GREEDY_BELOW else sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": _biases(sampling, request.known[:done]) or None,
        "seed": sampling.seed % _SEEDS,
        "ignore_eos": True,  # who ends the answer is in stop_token_ids
        "stop_token_ids": sorted(stop_ids(sampling, eos_ids)),
        "logprobs": sampling.logprobs,
        "detokenize": False,
    }
    if sampling.json_schema is not None:
        fields["structured_outputs"] = {"json": sampling.json_schema}
    elif sampling.regex is not None:
        fields["structured_outputs"] = {"regex": sampling.regex}
    return fields


def _biases(sampling: Sampling, known: Sequence[int]) -> dict[int, float]:
    """The request's own, and what presence and frequency penalties take for known tokens, which are prompt to vLLM.

    Exact for frequency. A known token that comes again pays for its presence twice: vLLM can't be told of the first
    time. Where there are too many, those that were generated most often are kept.
    """
    biases = dict(sampling.logit_bias)
    if not (sampling.presence_penalty or sampling.frequency_penalty):
        return biases
    for token, times in Counter(known).most_common():
        if token in biases or len(biases) < MOST_BIASES:
            taken = sampling.presence_penalty + sampling.frequency_penalty * times
            biases[token] = biases.get(token, 0.0) - taken
    return biases


def logprob(token: int, position: Mapping[int, Any], wanted: int) -> TokenLogprob:
    """Of one token, from vLLM's dict of one position: token id → `Logprob`, the chosen one and the likeliest."""
    ranked = sorted((one.rank, other, one.logprob) for other, one in position.items() if one.rank is not None)
    top = tuple((other, value) for rank, other, value in ranked if rank <= wanted)
    return TokenLogprob(token, position[token].logprob, top[:wanted])


def finish_reason(told: str) -> FinishReason:
    """For an answer that `Answer` would have gone on with. What vLLM has beside ours (abort, error, repetition) was
    not asked for: an error."""
    return _REASONS.get(told, FinishReason.ERROR)
