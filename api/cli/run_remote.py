"""`idlegrid run` over HTTP: a model that a grid serves, asked at the same door as by everybody."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httpx

from .output import tell

if TYPE_CHECKING:
    from ...actors.llm.completion import Completion
    from ...actors.llm.request import Sampling
    from ...grid.config import Settings

PROBE = 2.0
"""Seconds that a service on this machine has to say whether it serves a model."""
PATIENCE = 60.0
"""Seconds for which a model that is not ready yet is waited for."""


class Remote:
    """The HTTP service of a grid."""

    def __init__(self, base: str, values: Settings, api_key: str | None) -> None:
        key = api_key or values.api.key
        self.base = base.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base,
            headers={"X-API-Key": key} if key else {},
            verify=values.server.verify_ssl,
            timeout=httpx.Timeout(values.api.generation_timeout, connect=5.0),
        )

    def serves(self, model: str) -> bool:
        """Whether it answers, and serves this model."""
        try:
            answer = self._http.get(f"/v1/models/{quote(model)}", timeout=PROBE)
            return answer.status_code == 200 and "id" in answer.json()
        except (httpx.HTTPError, ValueError):
            return False

    def talk(self, model: str, messages: list[dict[str, str]], sampling: Sampling) -> Generator[str, None, Completion]:
        """The answer piece by piece. Raises RequestRefused, GenerationFailed and Unavailable."""
        body = {
            "model": model,
            "messages": messages,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with self._answer(body) as answer:
            return (yield from _read(answer))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @contextmanager
    def _answer(self, body: dict[str, Any]) -> Iterator[httpx.Response]:
        """The answer once the model is ready; the reason is told while it is not."""
        from ..client import Unavailable

        ends, said = time.monotonic() + PATIENCE, ""
        try:
            while True:
                with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                    if answer.is_success:
                        yield answer
                        return
                    why = _refusal(answer)
                if time.monotonic() > ends:
                    raise Unavailable(why)
                if why != said:
                    tell(why)
                    said = why
                time.sleep(0.5)
        except httpx.TransportError as error:
            raise Unavailable(
                f"{self.base} can't be used: {error}. Does `idlegrid up` run there? --url names another place"
            ) from error


def on_this_machine(base: str) -> bool:
    """Whether a prompt that goes there stays on this machine."""
    host = urlsplit(base).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refusal(answer: httpx.Response) -> str:
    """Why it can't be now. Raises RequestRefused or GridError for what will not be better in a moment."""
    from ...actors.llm.request import RequestRefused
    from ..client.asking import refusal_in

    answer.read()
    refusal = refusal_in(answer)
    if answer.status_code == 503:
        return str(refusal.problem.get("detail") or refusal)
    if answer.status_code in (400, 404, 422):
        raise RequestRefused(str(refusal.problem.get("detail") or refusal))
    raise refusal


def _read(answer: httpx.Response) -> Generator[str, None, Completion]:
    """The pieces of a stream; its last words are the completion."""
    from ...actors.llm.completion import Completion, GenerationFailed
    from ..client.sse import Decoder

    decoder, text, end = Decoder(), "", ""
    usage: dict[str, Any] = {}
    for message in (one for chunk in answer.iter_bytes() for one in decoder.feed(chunk)):
        if message.data == "[DONE]":
            break
        said = json.loads(message.data)
        if "error" in said:
            raise GenerationFailed(said["error"]["message"])
        usage = said.get("usage") or usage
        for choice in said["choices"]:
            piece = choice["delta"].get("content") or ""
            end = choice["finish_reason"] or end
            text += piece
            if piece:
                yield piece
    if not end:
        raise GenerationFailed("the answer broke off: the service was stopped, or lost")
    return Completion(
        text=text,
        finish_reason=end,
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        cached_tokens=usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
    )
