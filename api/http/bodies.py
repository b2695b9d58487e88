"""What the bodies of all requests share."""

from __future__ import annotations

from typing import Any

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
