"""Where a model's files are: a local folder, a package that ships them, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path

from ..grid import catalogue
from .digests import sha256_of
from .model_pins import ModelNotFound as ModelNotFound
from .model_pins import check, commit_of, is_allowed, name_of


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a model lie in its folder. Weights only from safetensors, and no code."""

    head: str
    """The file that every such folder has."""
    wanted: tuple[str, ...]
    """What is fetched: patterns of paths, where ``*`` goes over slashes too. All else never is."""
    unwanted: tuple[str, ...] = ()


TRANSFORMERS = Layout(
    "config.json", ("*.json", "*.txt", "*.model", "*.safetensors", "*/config.json", "*/*.safetensors")
)
DIFFUSERS = Layout(
    "model_index.json",
    ("model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"),
    ("safety_checker/*", "*.fp16.*", "*.non_ema.*", "*.fp8.*"),  # the same weights once more, or what isn't used
)
"""A folder for each part of a pipeline; a whole model in one file beside them is not fetched."""


def resolve(model: str, *, fetch: bool = True, layout: Layout = TRANSFORMERS) -> Path:
    """The folder that holds `model`'s files: a path, a catalogue name or alias, or a Hugging Face id.

    Looks in this order: a local folder; an installed package that carries the weights (catalogue); the hub's cache and
    the hub itself (not with `fetch=False` or `HF_HUB_OFFLINE=1`), for the pinned revision if there is one. Raises
    ModelNotFound; ModelRefused for files that are not those of the models' lock (`model_pins`).
    """
    name = name_of(model)
    found = locate(model, fetch=fetch, layout=layout, revision=commit_of(name), code=is_allowed(name))
    check(name, found)
    return found


def locate(
    model: str, *, fetch: bool = True, layout: Layout = TRANSFORMERS, revision: str | None = None, code: bool = False
) -> Path:
    """The same, pinned or not. `revision`: of the hub, None for the newest; `code`: with the model's own modules."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / layout.head).is_file():
            raise ModelNotFound(f"{folder} has no {layout.head}: it is not a model saved with save_pretrained")
        return folder
    entry = catalogue.find(model)
    if entry is not None and entry.package is not None and (packaged := _packaged(entry.package)) is not None:
        return packaged
    return _from_hub(entry.id if entry is not None else model, fetch, layout, revision, code)


def _packaged(package: str) -> Path | None:
    try:
        module = importlib.import_module(package)
    except ImportError:
        return None
    return Path(module.MODEL_DIR)


def _from_hub(model_id: str, fetch: bool, layout: Layout, revision: str | None, code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                model_id,
                revision=revision,
                allow_patterns=[*layout.wanted, "*.py"] if code else list(layout.wanted),
                ignore_patterns=list(layout.unwanted) or None,
                local_files_only=not fetch,
            )
        )
    except HFValidationError as error:
        raise ModelNotFound(f"{model_id!r} is neither a folder here nor a Hugging Face id: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            f"{model_id!r} is not a folder here, not in the hub's cache, and the hub can't be asked "
            f"({type(error).__name__}: {error}). Give a local folder, or fetch it where there is a network."
        ) from error


def revision(folder: Path) -> str:
    """What identifies the weights: 16 hex digits of SHA-256 over the configuration and every safetensors file.

    Of a pipeline all configurations count, e.g. its scheduler's. Large files are read once (see `digests`)."""
    digest = hashlib.sha256()
    heads = [folder / TRANSFORMERS.head]
    if (folder / DIFFUSERS.head).is_file():
        heads = [folder / DIFFUSERS.head, *folder.glob("*/*.json")]
    for path in sorted([*heads, *folder.rglob("*.safetensors")]):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(sha256_of(path))
    return digest.hexdigest()[:16]
