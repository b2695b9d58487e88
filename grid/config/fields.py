"""How a setting is declared, and how every setting of a model is listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

MASK = "********"
_TYPE_WORDS: Mapping[Any, str] = {int: "an integer", float: "a number", str: "text", bool: "true or false"}


class Section(BaseModel):
    """A group of settings. Frozen; unknown keys are refused (every section derives from this one, so at any depth)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, str_strip_whitespace=True
    )


def setting(
    default: Any,
    description: str,
    *,
    variable: str,
    unit: str = "",
    unset: str = "none",
    allowed: str = "",
    secret: bool = False,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """Declare one setting.

    `variable` is its environment variable; `unset` says in a word what a default of None means; `allowed` describes the
    permitted values where type and bounds do not; `secret` values are never shown.
    """
    extra: dict[str, Any] = {
        "variable": variable,
        "unit": unit,
        "unset": unset,
        "allowed": allowed,
        "secret": secret,
    }
    return Field(default=default, description=description, json_schema_extra=extra, ge=ge, gt=gt, le=le, lt=lt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a model, described."""

    key: str
    """Dotted, e.g. ``load_control.acceptance_rate``."""
    variable: str
    """Its environment variable."""
    default: Any
    description: str
    unit: str
    """E.g. ``s``; empty: none."""
    unset: str
    """What a default of None means, in a word."""
    allowed: str
    """The permitted values, in words."""
    secret: bool

    def show(self, value: Any) -> str:
        """`value` as people write it, with what is secret in it masked."""
        if value is None:
            return self.unset
        if self.secret:
            return mask(str(value))
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        if isinstance(value, Mapping):
            return ",".join(f"{name}={item}" for name, item in value.items()) or self.unset
        return str(value)


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Every setting of `model` and of the sections in it, in order of declaration."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is not None:
            yield from settings_of(section, f"{prefix}{name}.")
        else:
            yield _describe(f"{prefix}{name}", field)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section class that a field holds, or None when it is a setting itself."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def mask(text: str) -> str:
    """A secret as it may be shown: a URL without its user, password and query; anything else is hidden whole."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return MASK
    if not parts.scheme or not parts.netloc:
        return MASK
    _user, at, host = parts.netloc.rpartition("@")
    shown = parts._replace(netloc=f"{MASK}@{host}" if at else host, query=MASK if parts.query else "")
    return urlunsplit(shown)


def _describe(key: str, field: FieldInfo) -> Setting:
    extra: Any = field.json_schema_extra
    return Setting(
        key=key,
        variable=extra["variable"],
        default=field.get_default(call_default_factory=False),
        description=field.description or "",
        unit=extra["unit"],
        unset=extra["unset"],
        allowed=extra["allowed"] or _allowed(field),
        secret=extra["secret"],
    )


def _allowed(field: FieldInfo) -> str:
    """The permitted values, from the field's type and bounds."""
    plain = _plain_type(field.annotation)
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(map(str, get_args(plain)))
    words = _TYPE_WORDS[plain]
    bounds = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)
    }
    if "ge" in bounds and "le" in bounds:
        return f"{words} from {bounds['ge']} to {bounds['le']}"
    phrases = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    limits = " and ".join(phrase.format(bounds[name]) for name, phrase in phrases.items() if name in bounds)
    return f"{words}, {limits}" if limits else words


def _plain_type(annotation: Any) -> Any:
    """The type behind `X | None` and `Annotated[X, …]`."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
