"""The adapter of faster-whisper: without the library, a clear word; with it, the same face."""

from __future__ import annotations

import importlib.util

import pytest

from idlegrid.actors.whisper import faster
from idlegrid.actors.whisper.faster import EngineMissing, FasterWhisper
from idlegrid.actors.whisper.resident import whisper_model


def test_where_it_is_missing_it_is_told_how_to_get_it(monkeypatch):
    if importlib.util.find_spec("faster_whisper") is not None:
        monkeypatch.setattr(faster.importlib, "import_module", _missing)
    with pytest.raises(EngineMissing, match=r"pip install 'faster-whisper>=1.1', or set engines.whisper.engine"):
        FasterWhisper("whisper-small")
    with pytest.raises(EngineMissing):
        whisper_model("whisper-small", engine="faster-whisper")


def _missing(name):
    raise ImportError(f"No module named {name!r}")


def test_names_of_models():
    assert faster._name("openai/whisper-large-v3") == "large-v3"
    assert faster._name("Systran/faster-whisper-small") == "Systran/faster-whisper-small"


def test_a_folder_of_another_format(tmp_path):
    with pytest.raises(ValueError, match="no CTranslate2 model"):
        faster._name(str(tmp_path))


def test_an_engine_that_nobody_knows():
    with pytest.raises(ValueError, match="none of transformers, faster-whisper"):
        whisper_model("whisper-small", engine="whisper.cpp")


def test_a_number_format_that_it_has_not():
    with pytest.raises(ValueError, match="dtype must be one of"):
        FasterWhisper("whisper-small", dtype="fp4")
