"""What the service fetches for its clients: sound and pictures behind `audio_url` and `image_url`."""

from __future__ import annotations

from .fields import Section, setting
from .kinds import Cidrs


class Fetch(Section):
    """Fetching of `audio_url` and `image_url`. Only the public internet is ever fetched from."""

    enabled: bool = setting(
        True,
        "Whether addresses are fetched at all. Without, clients send what they have as Base64.",
        variable="IDLEGRID_FETCH_ENABLED",
    )
    allow_http: bool = setting(
        False, "Whether plain http is fetched too, from port 80.", variable="IDLEGRID_FETCH_ALLOW_HTTP"
    )
    max_mb: float = setting(
        50.0,
        "Size of one sound or picture, fetched or sent; beyond it 422.",
        variable="IDLEGRID_FETCH_MAX_MB",
        unit="MB",
        gt=0,
        le=700,
    )
    timeout: float = setting(
        30.0,
        "Time for one address, with all its redirects.",
        variable="IDLEGRID_FETCH_TIMEOUT",
        unit="s",
        gt=0,
        le=600,
    )
    max_concurrent: int = setting(
        8, "Addresses fetched at the same time; others wait.", variable="IDLEGRID_FETCH_MAX_CONCURRENT", ge=1, le=256
    )
    refused_networks: Cidrs | None = setting(
        None,
        "Networks with public addresses that are not fetched from, such as the operator's own; in the variable with "
        "commas.",
        variable="IDLEGRID_FETCH_REFUSED_NETWORKS",
        allowed="networks in CIDR form",
    )
