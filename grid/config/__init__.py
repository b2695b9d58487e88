"""Every setting: what it means, what it may be, where its value came from."""

from .loading import Loaded, Row, load_settings
from .problems import ConfigError, Problem
from .settings import Settings

__all__ = ["ConfigError", "Loaded", "Problem", "Row", "Settings", "load_settings"]
