"""Documents that are made from the code are up to date."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(*words):
    return subprocess.run(
        [sys.executable, ROOT / "scripts/generate-docs", *words], capture_output=True, text=True, timeout=60
    )


def test_generated_documents_are_up_to_date():
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_every_command_is_in_the_page():
    page = (ROOT / "docs/cli.md").read_text()
    for command in ("up", "scheduler", "api", "embed", "models", "status", "doctor", "worker start", "config show"):
        assert f"## `idlegrid {command}`" in page
