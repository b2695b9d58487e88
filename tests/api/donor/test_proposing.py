"""What is proposed to an owner, and what the owner is told."""

from __future__ import annotations

import pytest

from idlegrid.api.donor.config_file import change
from idlegrid.api.donor.membership import donor_of
from idlegrid.api.donor.proposing import Machine, explained, likely_region, models_that_fit, proposal
from idlegrid.grid import job_types
from idlegrid.grid.config import Settings

BIG = Machine(gpu_model="NVIDIA RTX 4090", gpu_memory_gb=25.0, memory_gb=64, cores=16, time_zone="Europe/Berlin")
NONE = Machine(gpu_model=None, gpu_memory_gb=0.0, memory_gb=8, cores=4, time_zone="Etc/UTC")


@pytest.mark.parametrize(
    ("zone", "region"),
    [
        ("Europe/Berlin", "europe-west"),
        ("Europe/Warsaw", "europe-east"),
        ("Asia/Tokyo", "asia-east"),
        ("Asia/Kolkata", "asia-south"),
        ("America/New_York", "america-north"),
        ("America/Sao_Paulo", "america-south"),
        ("America/Argentina/Salta", "america-south"),
        ("Australia/Sydney", "oceania"),
        ("Etc/UTC", None),
        ("UTC", None),
    ],
)
def test_where_a_machine_likely_stands(zone, region):
    assert likely_region(zone) == region


def test_only_what_fits_is_proposed():
    small = Machine(gpu_model="small", gpu_memory_gb=8.0, memory_gb=16, cores=4, time_zone="UTC")
    assert models_that_fit(BIG, Settings())["llm"] == "Qwen/Qwen2.5-7B-Instruct"
    assert models_that_fit(small, Settings()).get("llm") != "Qwen/Qwen2.5-7B-Instruct"


def test_a_name_says_nothing_of_its_owner():
    found = proposal(BIG, Settings())
    assert found["region"] == "europe-west"
    assert found["name"].startswith("worker-")
    assert "name" not in proposal(BIG, Settings(name="attic"))


def test_who_can_do_what_is_said_plainly():
    pushed = "\n".join(explained(BIG, Settings(name="attic"), "https://grid.example", pull=False))
    pulled = "\n".join(explained(NONE, Settings(name="attic"), "https://grid.example", pull=True))
    assert "can run code here, as you" in pushed
    assert "data, never code" in pulled
    assert "https" not in pulled.replace("https://grid.example", "")
    in_clear = "\n".join(explained(NONE, Settings(name="attic"), "http://grid.example", pull=True))
    assert "can read what both say" in in_clear
    assert "no GPU" in pulled


def test_what_can_not_run_here_is_not_offered(monkeypatch):
    monkeypatch.setattr(job_types, "find_spec", lambda name: None if name == "soundfile" else "there")
    told = "\n".join(explained(BIG, Settings(name="attic"), "https://grid.example", pull=True))
    assert "whisper" not in models_that_fit(BIG, Settings())
    assert "not whisper: soundfile not installed here" in told
    assert "whisper" not in donor_of(Settings(name="attic"), "w", (None, 0.0, 0)).supported_types


def test_without_a_gpu_a_model_must_leave_room_for_the_owner(tmp_path):
    assert "supported_types" not in proposal(BIG, Settings()), "a GPU's memory is asked for with each job"
    offered = proposal(NONE, Settings())["supported_types"]
    assert offered == "embedding", "not whisper-large in 8 GB"
    assert "supported_types" not in proposal(NONE, Settings(supported_types=("llm",))), "its owner said so"
    settings = change(tmp_path / "config.yaml", "supported_types", offered).settings
    assert settings.supported_types == ("embedding",)
    told = "\n".join(explained(NONE, settings, "https://grid.example", pull=True))
    assert "not image_gen, llm, vision, whisper, unless you say so" in told
