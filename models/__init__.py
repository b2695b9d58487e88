"""The models that come with idlegrid: weights as package data, found through the catalogue like any package's."""

from pathlib import Path

MODEL_DIR = Path(__file__).resolve().parent / "idlegrid-tiny"
"""The folder of `idlegrid-tiny`, as `save_pretrained` wrote it."""
