"""Which models a machine loads, and whose own code may run on it."""

from __future__ import annotations

from pathlib import Path

from .fields import Section, setting
from .kinds import Revisions


class Models(Section):
    """Models: pinned files, and code that they bring. Read on each machine that loads models."""

    remote_code: Revisions = setting(
        {},
        "Models whose own code may run on this machine, each with the revision that was looked at: a commit of the hub "
        "(40 hex digits), or a content as `idlegrid models pin` tells it (64); in the variable `model=revision,…`.",
        variable="IDLEGRID_MODELS_REMOTE_CODE",
        unset="no model's code runs",
        allowed="models with a revision each",
    )
    lock_file: Path | None = setting(
        None,
        "The models' lock: revisions and SHA-256 of files, checked whenever a model is loaded.",
        variable="IDLEGRID_MODELS_LOCK_FILE",
        unset="`models.lock.json` in the user's configuration folder, if it is there",
        allowed="a path",
    )
    only_locked: bool = setting(
        False, "Whether models that are not in the lock are refused.", variable="IDLEGRID_MODELS_ONLY_LOCKED"
    )
