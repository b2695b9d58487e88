"""Reading server-sent events as strictly as a client may."""

from __future__ import annotations

import json
from typing import Any


def events(body: bytes) -> list[Any]:
    """The documents of a stream. Fails unless it is whole: `data:` lines, blank lines between, `[DONE]` at the end."""
    text = body.decode()
    assert text.endswith("\n\n")
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    payloads = [block.removeprefix("data: ") for block in blocks]
    assert payloads[-1] == "[DONE]"
    assert payloads.count("[DONE]") == 1
    return [json.loads(payload) for payload in payloads[:-1]]


def joined(chunks: list[Any], index: int = 0) -> str:
    """The text of one choice."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)
