import math
import re

import pytest

from idlegrid.actors.llm.acceptance import check
from idlegrid.actors.llm.engine_face import EngineFacts
from idlegrid.actors.llm.request import Request, RequestRefused, Sampling

FACTS = EngineFacts(model="m", revision="0" * 16, context=100, vocab_size=50, dtype="float32", backend="torch")


def test_the_defaults_and_the_borders_are_taken():
    check(Request(id="a", prompt=(0, 49)), FACTS)
    check(
        Request(id="a", prompt=(1,) * 99, known=(1,), sampling=Sampling(top_p=1.0, temperature=2.0, min_p=1.0)), FACTS
    )
    check(Request(id="a", prompt=(1,), sampling=Sampling(max_tokens=1, min_tokens=1, logit_bias={49: -100})), FACTS)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": ()}, "the prompt is empty"),
        ({"prompt": (1,) * 100}, "the prompt has 100 tokens, and m takes 100 in all"),
        ({"prompt": (50,)}, "prompt has a token id outside of the model's 0 to 49"),
        ({"known": (-1,)}, "known has a token id outside"),
        ({"known": (1,) * 3, "max_tokens": 2}, "3 tokens are known already"),
        ({"known": (1,) * 100}, "100 tokens are known already"),
        ({"timeout": -1.0}, "timeout must be more than 0 seconds, not -1.0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"temperature": 2.1}, "temperature must be between 0 and 2, not 2.1"),
        ({"temperature": math.nan}, "temperature must be between 0 and 2, not nan"),
        ({"top_p": 0.0}, "top_p must be more than 0 and at most 1, not 0.0"),
        ({"top_k": -1}, "top_k must be at least 0, not -1"),
        ({"min_p": 1.1}, "min_p must be"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be more than 0"),
        ({"presence_penalty": 3.0}, "presence_penalty must be between -2 and 2"),
        ({"frequency_penalty": -3.0}, "frequency_penalty must be between -2 and 2"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens (6) is more than max_tokens (5)"),
        ({"stop": ("a", "")}, "a stop string must not be empty"),
        ({"stop_token_ids": (50,)}, "stop_token_ids must be from 0 to 49, not 50"),
        ({"logit_bias": {50: 1.0}}, "logit_bias wants ids from 0 to 49"),
        ({"logit_bias": {5: 101.0}}, "not 5: 101.0"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20, not 21"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_with_the_field_and_the_value(request_, message):
    own = {name: request_[name] for name in ("prompt", "known", "timeout") if name in request_}
    sampling = Sampling(**{name: value for name, value in request_.items() if name not in own})
    with pytest.raises(RequestRefused, match=re.escape(message)):
        check(Request(**{"id": "a", "prompt": (1, 2), "sampling": sampling, **own}), FACTS)
