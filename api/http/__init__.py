"""The HTTP door: OpenAI's embeddings API over whatever computes behind the `Embedder` protocol."""

from .app import create_app

__all__ = ["create_app"]
