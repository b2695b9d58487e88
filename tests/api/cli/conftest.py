"""The command line in this process: what it prints, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from idlegrid.api.cli import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Idlegrid = Callable[..., Done]


@pytest.fixture
def idlegrid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Idlegrid:
    """``idlegrid("models", "--json")`` runs the command as its entry point does."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["idlegrid", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        code = end.value.code
        return Done(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
