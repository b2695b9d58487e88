"""What each kind of model brings to the service: its routes, its models, and what a line of a batch may ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from ...grid.config import Settings
from ...grid.tenants import Salts
from ..batches.embedding_lines import EmbeddingLines
from ..batches.endpoints import Endpoint
from ..batches.llm_lines import llm_endpoints
from .audio import audio_router
from .audio_batcher import AudioBatcher
from .audio_face import Transcriber
from .batch_driver import BatchDriver
from .batcher import Batcher
from .chat import chat_router
from .completions import completions_router
from .embedder import Embedder
from .embeddings import embeddings_router
from .image_batcher import ImageBatcher
from .images import images_router
from .images_face import Painter
from .limits import image_limits, speech_limits, text_limits
from .llm_door import LlmDoor
from .llm_face import ChatBackend
from .metrics import LlmMetrics, metrics_router
from .models import Models
from .sight import Sight

EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Area:
    """One kind of model, as the service has it."""

    models: Models
    routers: tuple[APIRouter, ...] = ()
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    """Path → what computes a line of a batch that asks for it."""
    queue: BatchDriver[Any, Any] | None = None
    """What waits to be computed together; closed with the service."""
    makes_ready: bool = False
    """Whether the service is ready for requests as soon as somebody can run one of its models."""


def areas_of(
    embedder: Embedder,
    settings: Settings,
    *,
    chat: ChatBackend | None,
    speech: Transcriber | None,
    painter: Painter | None,
    sight: Sight | None,
    salts: Salts | None = None,
) -> Iterator[Area]:
    """All that this service computes with, in the order in which `GET /v1/models` lists it."""
    yield embedding_area(embedder, settings)
    if chat is not None:
        yield llm_area(chat, settings, sight, salts)
    if speech is not None:
        yield speech_area(speech, settings)
    if painter is not None:
        yield image_area(painter, settings)
    if sight is not None:
        yield Area(sight.models)  # its requests come in by the door of the language models


def endpoints_of(areas: Iterable[Area]) -> dict[str, Endpoint]:
    """Path → what computes a line of a batch that asks for it, of all areas."""
    return {path: endpoint for area in areas for path, endpoint in area.endpoints.items()}


def embedding_area(embedder: Embedder, settings: Settings) -> Area:
    """Texts to vectors."""
    models, queue = Models(embedder), Batcher(embedder, text_limits(settings))
    lines = EmbeddingLines(embedder, models, settings.api)
    return Area(models, (embeddings_router(models, queue, settings.api),), {EMBEDDINGS: lines}, queue, makes_ready=True)


def llm_area(chat: ChatBackend, settings: Settings, sight: Sight | None, salts: Salts | None = None) -> Area:
    """Language models; `sight` takes the conversations with pictures. `salts`: of clients, see `LlmDoor`."""
    models, metrics = Models(chat), LlmMetrics()
    door = LlmDoor(chat, models, settings.api, metrics, salts)
    routers = (chat_router(door, sight), completions_router(door), metrics_router(metrics, chat))
    return Area(models, routers, llm_endpoints(door), makes_ready=True)


def speech_area(speech: Transcriber, settings: Settings) -> Area:
    """Recordings to text."""
    models, queue = Models(speech), AudioBatcher(speech, speech_limits(settings))
    return Area(models, (audio_router(models, queue, settings.api),), queue=queue)


def image_area(painter: Painter, settings: Settings) -> Area:
    """Text to pictures."""
    models, queue = Models(painter), ImageBatcher(painter, image_limits(settings))
    return Area(models, (images_router(models, queue, settings.api),), queue=queue)
