"""Recordings and images as parameters of a job."""

from __future__ import annotations

import base64
from pathlib import Path

Source = bytes | str | Path
"""The content; an http(s) address; or a file."""


def params(kind: str, source: Source) -> dict[str, str]:
    """``{kind}_url`` for an address, ``{kind}_base64`` for content or a file. Raises OSError."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return {f"{kind}_url": source}
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    return {f"{kind}_base64": base64.b64encode(content).decode("ascii")}
