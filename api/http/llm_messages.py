"""The messages of a chat request, checked: what a chat template can't show is refused, never dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .bodies import UNSUPPORTED_PARAMETER
from .errors import ApiError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Role in the API → role in chat templates: `developer` is OpenAI's newer word for `system`."""
_KNOWN = ("role", "content")
_IMAGE = "image_url"
"""Type of a part that is a picture."""


@dataclass(frozen=True, slots=True)
class PictureAt:
    """A picture in a message."""

    url: str
    place: str
    """Where it stands, for people."""


Part = str | PictureAt


def parse_messages(value: Any, most: int) -> list[Mapping[str, str]]:
    """The messages as a chat template takes them. Raises ApiError, never with a word of the conversation."""
    found = parse_parts(value, most, pictures=False)
    return [{"role": role, "content": "".join(map(str, parts))} for role, parts in found]


def parse_parts(value: Any, most: int, *, pictures: bool = True) -> list[tuple[str, list[Part]]]:
    """The messages as roles and parts: texts and, unless `pictures` are refused, pictures. Raises ApiError likewise."""
    if not isinstance(value, list) or not value:
        raise _bad("messages", "it must be a list of at least one message")
    if len(value) > most:
        raise _bad("messages", f"it has {len(value)} messages, at most {most} are allowed")
    return [_message(one, f"messages[{index}]", pictures) for index, one in enumerate(value)]


def _message(one: Any, place: str, pictures: bool) -> tuple[str, list[Part]]:
    if not isinstance(one, dict):
        raise _bad(place, "it must be an object with `role` and `content`")
    role = one.get("role")
    if role in ("tool", "function"):
        raise _unsupported(f"{place}.role", f"the role {role!r}")
    if not isinstance(role, str) or role not in ROLES:
        raise _bad(f"{place}.role", f"it must be one of {', '.join(ROLES)}")
    for name, given in one.items():
        if name not in _KNOWN and given not in (None, [], ""):
            shown = str(name)[:40].encode(errors="replace").decode()
            raise _unsupported(f"{place}.{shown}", f"{shown!r} of a message")
    return ROLES[role], _content(one.get("content"), f"{place}.content", pictures)


def _content(value: Any, place: str, pictures: bool) -> list[Part]:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise _bad(place, "it must be a text or a list of parts")
    whole = isinstance(value, str)
    return [_part(part, place if whole else f"{place}[{index}]", pictures) for index, part in enumerate(parts)]


def _part(part: Any, place: str, pictures: bool) -> Part:
    if isinstance(part, dict):
        if part.get("type") == _IMAGE:
            return _picture(part.get(_IMAGE), place) if pictures else _text_only(place)
        if part.get("type") != "text":
            kind = str(part.get("type"))[:40].encode(errors="replace").decode()
            raise _unsupported(f"{place}.type", f"a part of type {kind!r}")
        part, place = part.get("text"), f"{place}.text"
    if not isinstance(part, str):
        raise _bad(place, "it must be a text")
    check_text(part, place)
    return part


def _text_only(place: str) -> Part:
    message = (
        f"This model reads text only, and {place!r} is a picture. Ask a model that sees: "
        "`idlegrid models --type vision` lists some."
    )
    raise ApiError(400, message, param=f"{place}.type", code=UNSUPPORTED_PARAMETER)


def _picture(given: Any, place: str) -> PictureAt:
    """`detail` is taken and without effect: models have one resolution."""
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str) or not url:
        raise _bad(f"{place}.{_IMAGE}", "it must be an object with `url`")
    return PictureAt(url, place)


def check_text(text: str, place: str) -> None:
    """Raise ApiError for half of a surrogate pair: valid in JSON, not a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad(place, "it is no valid Unicode") from None


def as_conversation(prompt: str, system: str | None = None) -> Sequence[Mapping[str, str]]:
    """A single question, with a system message before it if there is one."""
    first = [{"role": "system", "content": system}] if system is not None else []
    return [*first, {"role": "user", "content": prompt}]


def _bad(param: str, what: str) -> ApiError:
    return ApiError(400, f"Invalid value for {param!r}: {what}.", param=param, code="invalid_value")


def _unsupported(param: str, what: str) -> ApiError:
    return ApiError(400, f"Unsupported: {what} is not supported here.", param=param, code=UNSUPPORTED_PARAMETER)
