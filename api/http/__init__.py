"""The HTTP service: OpenAI's API and the grid's own, over whatever computes behind their faces."""

from .app import create_app

__all__ = ["create_app"]
