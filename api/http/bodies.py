"""What the bodies of all requests share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from ...grid.suggest import did_you_mean

UNKNOWN_PARAMETER = "unknown_parameter"
UNSUPPORTED_PARAMETER = "unsupported_parameter"
"""A parameter of the API that this service does not have."""


class Body(BaseModel):
    """A request's body. A parameter that it does not have is refused by name: nobody should think that it works."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = next((name for name in data if name not in known), None) if isinstance(data, dict) else None
        if unknown is None:
            return data
        # the client's own name for it may hold half of a surrogate pair, which nothing can print
        shown = str(unknown)[:100].encode(errors="replace").decode()
        facts = {"name": shown, "message": f"Unknown parameter: {shown!r}.{did_you_mean(shown, known)}"}
        raise PydanticCustomError(UNKNOWN_PARAMETER, "{message}", facts)


class SelectiveBody(Body):
    """A body of an API that has more parameters than this service: those are refused, unless they ask for nothing."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Parameters of the API that are not supported → the values that ask for nothing, which are taken."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        """Refuse by name what the API has and we have not, unless its value asks for nothing."""
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name not in cls.neutral:
                kept[name] = value
            elif value is not None and not any(_same(value, one) for one in cls.neutral[name]):
                message = f"Unsupported parameter: {name!r} is not supported here{_but(cls.neutral[name])}."
                raise PydanticCustomError(UNSUPPORTED_PARAMETER, "{message}", {"name": name, "message": message})
        return kept


def _same(value: Any, one: Any) -> bool:
    return type(value) is type(one) and bool(value == one)


def _but(neutral: tuple[Any, ...]) -> str:
    """What may be said of it."""
    shown = " and ".join(json.dumps(one) for one in neutral)
    return f" (but for {shown}, which asks for nothing)" if shown else ""
