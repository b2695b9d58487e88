"""Requests and events as plain msgpack types, and back. What can't be read is refused, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from operator import index
from typing import Any, TypeVar

from ..llm.request import Event, Finished, FinishReason, Request, Sampling, TokenLogprob, Tokens
from .wire import ProtocolError

T = TypeVar("T")


def _ids(value: Any) -> tuple[int, ...]:
    if isinstance(value, str | bytes):
        raise TypeError("token ids are a list of numbers")
    return tuple(map(index, value))


def _bias(value: Any) -> dict[int, float]:
    return {index(token): float(added) for token, added in value}


_READ: Mapping[str, Callable[[Any], Any]] = {
    "prompt": _ids,
    "known": _ids,
    "stop_token_ids": _ids,
    "stop": tuple,
    "logit_bias": _bias,
}
"""Fields that msgpack does not give back as they were."""


def request_to_wire(request: Request) -> dict[str, Any]:
    """Defaults are left out."""
    wire = _changed(request)
    if "sampling" in wire:
        wire["sampling"] = _changed(request.sampling)
        if request.sampling.logit_bias:
            wire["sampling"]["logit_bias"] = list(request.sampling.logit_bias.items())
    return wire


def request_from_wire(wire: Mapping[str, Any]) -> Request:
    """The inverse of `request_to_wire`. Raises ProtocolError, also on a field that this version does not know: what
    it means would be left undone.
    """
    said = dict(wire)
    if "sampling" in said:
        said["sampling"] = _read(Sampling, said["sampling"])
    return _read(Request, said)


def _changed(value: Any) -> dict[str, Any]:
    """The fields that are not at their default."""
    changed = {}
    for one in fields(value):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if (now := getattr(value, one.name)) != default:
            changed[one.name] = now
    return changed


def _read(cls: type[T], wire: Any) -> T:
    try:
        return cls(**{name: _READ.get(name, _same)(value) for name, value in wire.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"a {cls.__name__} came that can't be read: {error}") from None


def _same(value: Any) -> Any:
    return value


def event_to_wire(event: Event) -> dict[str, Any]:
    """Short, since there is one for every token."""
    if isinstance(event, Tokens):
        wire: dict[str, Any] = {"ids": event.ids, "text": event.text}
        if event.logprobs:
            wire["logprobs"] = [(one.token, one.logprob, one.top) for one in event.logprobs]
        return wire
    return {**_changed(event), "reason": event.reason.value}


def event_from_wire(wire: Any) -> Event:
    """The inverse of `event_to_wire`. Raises ProtocolError."""
    try:
        if "reason" in wire:
            return Finished(**{**wire, "reason": FinishReason(wire["reason"])})
        logprobs = tuple(
            TokenLogprob(token, logprob, tuple((other, value) for other, value in top))
            for token, logprob, top in wire.get("logprobs", ())
        )
        return Tokens(ids=_ids(wire["ids"]), text=wire["text"], logprobs=logprobs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"an event came that can't be read: {error!r}") from None
