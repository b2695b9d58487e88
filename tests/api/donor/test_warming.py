"""Which engines a worker process loads before it takes work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from idlegrid.api.donor.warming import VARIABLE, models_to_warm
from idlegrid.grid.config import Settings
from idlegrid.grid.donors import Donor

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BOTH = frozenset({"embedding", "llm", "trial"})


def test_what_the_owner_named_and_what_fits():
    plain = Donor(id="w", supported_types=BOTH)
    named = Settings.model_validate({"engines": {"llm": {"model_id": "idlegrid-tiny"}}})
    assert models_to_warm(Settings(), plain) == {"embedding": MINILM}, (
        "a large model on a CPU is loaded when it is asked"
    )
    assert models_to_warm(named, plain) == {"embedding": MINILM, "llm": "idlegrid-tiny"}
    large = Donor(id="w", supported_types=BOTH, gpu_memory_gb=24.0, gpu_model="a GPU", gpu_count=1)
    assert models_to_warm(Settings(), large)["llm"] == "Qwen/Qwen2.5-7B-Instruct"
    assert models_to_warm(Settings(), Donor(id="w", supported_types=frozenset({"trial"}))) == {}


@pytest.mark.slow
def test_they_are_loaded_and_what_is_not_there_stops_nothing():
    models = {"embedding": MINILM, "llm": "nobody/has-this", "of_tomorrow": "x"}
    code = "from idlegrid.api.donor.warming import warm; warm(lambda: False)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", VARIABLE: json.dumps(models)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"embedding is loaded: {MINILM}" in done.stdout, done.stderr
    assert "nobody/has-this is not on this machine yet" in done.stdout
