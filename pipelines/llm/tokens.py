"""A model's tokenizer in the service's own process: no torch, no weights, no way to a worker. Where it can be had."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...actors.models import ModelNotFound, resolve

if TYPE_CHECKING:
    from ...actors.llm.codec import Codec

logger = logging.getLogger(__name__)


def local_codec(model: str) -> Codec | None:
    """The tokenizer of a model whose files are on this machine; nothing is fetched. None: ask a replica instead."""
    try:
        from ...actors.llm.codec import Codec, NoTokenizer  # jinja2 and tokenizers: a notebook may lack them
    except ImportError:
        return None
    try:
        return Codec.load(resolve(model, fetch=False), model)
    except (ModelNotFound, NoTokenizer, ImportError) as error:
        logger.info("the tokenizer of %s is not here, its replicas are asked: %s", model, error)
        return None
