"""Fetches sound and pictures for clients, from the public internet only."""

from .fetcher import Fetched, Fetcher, FetchFailed, FetchLimits, FetchRefused
from .inline import inline_media

__all__ = ["FetchFailed", "FetchLimits", "FetchRefused", "Fetched", "Fetcher", "inline_media"]
