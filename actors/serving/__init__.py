"""Engines served from workers: the host beside each engine, and the channel on which requests and events travel."""
