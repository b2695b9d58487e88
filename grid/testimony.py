"""What every worker said to a job when it was placed: cut to a size that is kept with each attempt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

LONGEST = 4_000
"""Characters of JSON that are kept of one placement."""
_FIELDS = ("worker", "name", "region", "path", "verdict", "detail", "retry_at", "score")


def told(rows: Sequence[Mapping[str, Any]], at: datetime, *, path: str, longest: int = LONGEST) -> dict[str, Any]:
    """As it is kept: ``{"at", "workers": [...], "others": {verdict: count}}``, at most `longest` characters of JSON.

    `rows` come best first, then who refuses, as `grid_explain` gives them; those for whom there is no room are counted
    by their verdict. `path`: how work comes to the workers of rows that don't say it.
    """
    kept: list[dict[str, Any]] = []
    others = Counter(str(row["verdict"]) for row in rows)
    left = longest - len(json.dumps({"at": at.isoformat(), "workers": [], "others": others}))
    for row in rows:
        said = {name: row.get(name, path if name == "path" else None) for name in _FIELDS}
        left -= len(json.dumps(said, default=str)) + len(", ")
        if left < 0:
            break
        kept.append(said)
        others[said["verdict"]] -= 1
    return {"at": at.isoformat(), "workers": kept, "others": dict(+others)}
