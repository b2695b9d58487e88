"""Where a model's files are: a local folder, a package that ships them, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

from ..grid import catalogue
from .digests import sha256_of

# Weights only from safetensors, and no code: what is not in this list is never fetched.
_WANTED_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*/config.json", "*/*.safetensors"]


class ModelNotFound(Exception):
    """The model's files can't be had on this machine. The message says what was tried."""


def resolve(model: str, *, fetch: bool = True) -> Path:
    """The folder that holds `model`'s files: a path, a catalogue name or alias, or a Hugging Face id.

    Looks in this order: a local folder; an installed package that carries the weights (catalogue); the hub's cache and
    the hub itself (not with `fetch=False` or `HF_HUB_OFFLINE=1`). Raises ModelNotFound.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFound(f"{folder} has no config.json: it is not a model saved with save_pretrained")
        return folder
    entry = catalogue.find(model)
    if entry is not None and entry.package is not None and (packaged := _packaged(entry.package)) is not None:
        return packaged
    return _from_hub(entry.id if entry is not None else model, fetch)


def _packaged(package: str) -> Path | None:
    try:
        module = importlib.import_module(package)
    except ImportError:
        return None
    return Path(module.MODEL_DIR)


def _from_hub(model_id: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=_WANTED_FILES, local_files_only=not fetch))
    except HFValidationError as error:
        raise ModelNotFound(f"{model_id!r} is neither a folder here nor a Hugging Face id: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            f"{model_id!r} is not a folder here, not in the hub's cache, and the hub can't be asked "
            f"({type(error).__name__}: {error}). Give a local folder, or fetch it where there is a network."
        ) from error


def revision(folder: Path) -> str:
    """What identifies the weights: 16 hex digits of SHA-256 over the configuration and every safetensors file.

    Large files are read once (see `digests`)."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.rglob("*.safetensors")]):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(sha256_of(path))
    return digest.hexdigest()[:16]
