"""What a row of a chat job says: a prompt, or messages as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..llm_job import MAX_MESSAGES
from .errors import InputError
from .schema import check_text_column, is_text

ROLES = ("system", "user", "assistant")


class BadConversation(ValueError):
    """A row that is no conversation; the message becomes its error."""


def parse(text: str) -> list[Mapping[str, str]]:
    """The messages in a row's JSON. Raises BadConversation for what a chat template can't show."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConversation(f"the messages are no JSON: {error}") from error
    if not isinstance(found, list) or not found:
        raise BadConversation("the messages must be a list of at least one")
    if len(found) > MAX_MESSAGES:
        raise BadConversation(f"there are {len(found)} messages, at most {MAX_MESSAGES} are read")
    return [_message(index, one) for index, one in enumerate(found)]


def _message(index: int, one: Any) -> Mapping[str, str]:
    if not isinstance(one, dict):
        raise BadConversation(f"message {index} is no object with role and content")
    given = {name: value for name, value in one.items() if value is not None}
    if given.get("role") not in ROLES:
        raise BadConversation(f"message {index} has none of the roles {', '.join(ROLES)}")
    if not isinstance(given.get("content"), str):
        raise BadConversation(f"message {index} has no text as its content")
    others = sorted(set(given) - {"role", "content"})
    if others:
        raise BadConversation(f"message {index} has {others[0][:40]!r}, which no template here shows")
    return {"role": given["role"], "content": given["content"]}


def check_messages_column(schema: Any, column: str) -> None:
    """Raise InputError unless `column` holds JSON text, or lists of structs with texts `role` and `content`."""
    found = schema.get_all_field_indices(column)
    if len(found) != 1 or not pa.types.is_nested(kind := schema.field(found[0]).type):
        check_text_column(schema, column)
        return
    item: Any = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    fields = list(item) if item is not kind and pa.types.is_struct(item) else []
    names = {field.name: field.type for field in fields}
    if not all(name in names and is_text(names[name]) for name in ("role", "content")):
        raise InputError(
            f"column {column!r} holds {kind}; messages are JSON text, or lists of structs with texts role and content"
        )
